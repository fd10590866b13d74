"""What independent judges say of Monte-Carlo labels, beside what simulators say."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np
import tyro

from experiments.console.command import answer
from experiments.console.tables import format_table
from experiments.store.experiment import ExperimentOptions
from experiments.store.provenance import file_sha256
from experiments.store.results import Result, append_results
from mprm_jax.data.corpus import Corpus, SelectableCorpus, read_corpus, usable_rollouts
from mprm_jax.data.write import line_decoder, read_lines
from mprm_jax.records.problems import BadRecord, DataError, faults_of
from mprm_jax.records.record import Record, Step, scored_step
from theory.agreement import count_pairs, pair_plan
from theory.intervals import Interval, draw_weights, percentile_interval
from theory.placement import noise_by_position, part_of_rollout, relative_position
from theory.rollouts import Rollouts

if TYPE_CHECKING:
    from sim.corpus.fit import ModelFit

NAME = "judges"

# Ranges of K of 16 that a few hundred steps can fill: lowest and highest.
BINS = ((0, 0), (1, 2), (3, 5), (6, 10), (11, 15), (16, 16))
TRIALS = 16

# Resamples of the rollouts behind the intervals, and their level.
_REPLICATES = 2000

# Parts of a rollout in which noise is told apart.
THIRDS = 3

_NOTHING = Interval(float("nan"), float("nan"))

# Rollouts that the fitted model is sampled for.
_SIMULATED = 20_000

# No sample of judged rollouts is larger; a larger file is something else.
_MAX_BYTES = 64 * 2**20

# A judge's labels; those of the annotator have the same form.
_JUDGE = re.compile("prm_(?!(?:hard|soft)_label$)(.+)_label")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(ExperimentOptions):
    """How often is a step wrong that K of 16 continuations saved?

    Reads rollouts whose steps have Monte-Carlo scores and the labels of judges that
    have not seen them (Med-PRM samples: one JSON list of objects with prm_soft_label
    and prm_NAME_label per judge), prints P(judged wrong | K) and how often the label
    1[K > 0] is wrong in each third of a rollout, fits the corpus models to the counts,
    and sets P(r < 1/2 | K) of the fitted model beside it, and P(wrong | K) of simulated
    scenes where their folders are given.

    Example: mprm run judges samples.json --world runs/demo/scarce/corpus

    Attributes:
        samples: The judged rollouts.
        world: Folders that mprm simulate scenes or mprm demo wrote.
    """

    samples: tyro.conf.Positional[Path]
    world: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FOLDER ...")] = ()


OPTIONS = Options


@dataclasses.dataclass(frozen=True, eq=False)
class Judged:
    """Steps with counts and with labels of judges.

    Attributes:
        rollouts: the counts, every rollout that could be used.
        wrong: judge -> whether the step was judged wrong, ``[n_steps]``.
        left_out: reasons why rollouts were left out, with counts.
    """

    rollouts: Rollouts
    wrong: Mapping[str, np.ndarray]
    left_out: Mapping[str, int]


def read_judged(path: Path) -> Judged:
    """The rollouts of a file of Med-PRM samples.

    A rollout whose judges did not label every step is left out and counted.

    Raises:
        DataError: the file cannot be read or is none.
    """
    samples = _read_samples(path)
    keys = {key for sample in samples for key in sample}
    judges = sorted(m[1] for key in keys if (m := _JUDGE.fullmatch(key)))
    if not judges:
        raise DataError(f"{path}: no judge's labels (prm_NAME_label) beside the scores")
    counts: list[int] = []
    lengths: list[int] = []
    wrong: dict[str, list[bool]] = {name: [] for name in judges}
    left_out: Counter[str] = Counter()
    for number, sample in enumerate(samples, 1):
        where = f"{path}: sample {number}"
        scores = sample.get("prm_soft_label")
        labels = {name: sample.get(f"prm_{name}_label") for name in judges}
        if not isinstance(scores, list) or not scores:
            raise DataError(f"{where}: no prm_soft_label")
        whole = {
            name: of
            for name, of in labels.items()
            if isinstance(of, list) and len(of) == len(scores)
        }
        if whole.keys() != labels.keys():
            left_out["a judge did not label every step"] += 1
            continue
        try:
            for step, score in enumerate(scores, 1):
                counts.append(scored_step("", score, TRIALS, step).successes)
        except BadRecord as error:
            raise DataError(f"{where}: {error}") from None
        lengths.append(len(scores))
        for name, of in whole.items():
            if not all(label in (0, 1) for label in of):
                raise DataError(f"{where}: prm_{name}_label holds more than 0 and 1")
            wrong[name] += [label == 0 for label in of]
    if not lengths:
        raise DataError(f"{path}: no rollout that the judges labelled whole")
    rollouts = Rollouts(
        np.array(counts),
        np.full(len(counts), TRIALS),
        np.concatenate([[0], np.cumsum(lengths)]),
        np.zeros(len(lengths), np.int64),
        ("judged",),
    )
    return Judged(rollouts, {n: np.array(of) for n, of in wrong.items()}, left_out)


@dataclasses.dataclass(frozen=True, eq=False)
class KnownTruth:
    """Rollouts of a corpus whose steps somebody judged.

    Attributes:
        rollouts: their counts.
        right_S: whether a step was judged right.
        known_S: whether it was judged at all.
        source: who judged: a judge's name, or the format of the file.
        left_out: reasons why judged rollouts were left out, with counts.
        usable_rows: places of the rollouts in the corpus; None: the file does not say.
        copies: usable rows of them and of all that read the same.
    """

    rollouts: Rollouts
    right_S: np.ndarray
    known_S: np.ndarray
    source: str
    left_out: Mapping[str, int]
    usable_rows: np.ndarray | None = None
    copies: np.ndarray | None = None


def read_truth_of(
    path: Path, usable: SelectableCorpus, judge: str | None = None
) -> KnownTruth:
    """Judged rollouts with their counts.

    Med-PRM samples bring their counts. Records of any format with one label a step
    (TRL, ProcessBench, VisualProcessBench) are matched to the corpus's rollouts by
    question and steps, white space at their ends aside.

    Args:
        path: the judged rollouts.
        usable: the corpus; its counts are taken.
        judge: whose labels, of Med-PRM samples; None: the first by name.

    Raises:
        DataError: the file cannot be used, no judged rollout is in the corpus, or the
            match is ambiguous.
    """
    file = read_corpus(path, use_cache=False, sha256=False)
    if file.format == "medprm":
        judged = read_judged(path)
        name = next(iter(judged.wrong)) if judge is None else judge
        if name not in judged.wrong:
            known = ", ".join(judged.wrong)
            raise DataError(f"{path}: no judge {name!r}; its judges: {known}")
        right = ~judged.wrong[name]
        everything = np.ones(len(right), bool)
        return KnownTruth(judged.rollouts, right, everything, name, judged.left_out)
    if judge is not None:
        raise DataError(f"{path}: {file.format} records name no judges")
    if file.rollouts.n_steps and file.rollouts.trials.max() > 1:
        raise DataError(f"{path}: holds Monte-Carlo counts, not judgements of steps")
    if file.bad_lines.total:
        first = next(iter(file.bad_lines.first.values()))
        raise DataError(f"{first.where}: {first.reason} {first.detail}".strip())
    return _matched(path, file, usable)


def _matched(path: Path, file: Corpus, usable: SelectableCorpus) -> KnownTruth:
    judgements: dict[Any, Sequence[Step]] = {}
    for row, record in _records(file, np.arange(file.rollouts.n_rollouts)):
        steps = judgements.setdefault(_content(record), record.steps)
        if steps != record.steps:
            raise DataError(f"{file.where(row)}: judged twice, and not alike")
    corpus = usable.corpus
    lengths = {len(steps) for steps in judgements.values()}
    like = np.isin(corpus.rollouts.lengths[usable.row], list(lengths))
    found: dict[Any, int] = {}
    copies: list[int] = []
    counts: dict[Any, Sequence[Step]] = {}
    for place, (row, record) in zip(
        np.flatnonzero(like), _records(corpus, usable.row[like]), strict=True
    ):
        key = _content(record)
        if key not in judgements:
            continue
        if counts.setdefault(key, record.steps) != record.steps:
            raise DataError(
                f"{path}: ambiguous: {corpus.where(row)} is judged, and the corpus has "
                "the same question and steps with other counts"
            )
        found.setdefault(key, int(place))
        copies.append(int(place))
    if not found:
        raise DataError(
            f"{path}: none of {len(judgements)} judged rollouts is in {corpus.path} "
            "(question and steps must be the same)"
        )
    rows = np.array(list(found.values()))
    rollouts = usable.rollouts.take(rows)
    # A rollout cut before an unmeasured step has fewer steps than were judged.
    steps = [
        step
        for key, n in zip(found, rollouts.lengths, strict=True)
        for step in judgements[key][:n]
    ]
    known = np.array([step.trials > 0 for step in steps])
    if not known.any():
        raise DataError(f"{path}: no step of the {len(found)} rollouts was judged")
    left_out = {"not in the corpus": len(judgements) - len(found)}
    left_out["again"] = file.rollouts.n_rollouts - len(judgements)
    return KnownTruth(
        rollouts,
        np.array([step.successes > 0 for step in steps]),
        known,
        file.format,
        {reason: n for reason, n in left_out.items() if n},
        rows,
        np.array(copies),
    )


def _records(corpus: Corpus, rows: np.ndarray) -> Iterator[tuple[int, Record]]:
    decode = line_decoder(corpus)
    for row, data in read_lines(corpus, rows):
        yield row, decode(row, data)


def _content(record: Record) -> tuple[str, ...]:
    return (record.question.strip(), *(step.text.strip() for step in record.steps))


def _read_samples(path: Path) -> list[dict[str, Any]]:
    with faults_of(path, "no JSON list of samples"):
        if path.stat().st_size > _MAX_BYTES:
            raise DataError(f"{path}: more than 64 MiB: no sample of judged rollouts")
        return msgspec.json.decode(path.read_bytes(), type=list[dict[str, Any]])


def _bins(successes: np.ndarray) -> np.ndarray:
    """Index of each count's bin."""
    return np.searchsorted([low for low, _ in BINS], successes, "right") - 1


def wrong_by_count(successes: np.ndarray, wrong: np.ndarray) -> list[float]:
    """P(wrong | K in the bin) for each of :data:`BINS`; NaN where a bin is empty.

    Args:
        successes: K of 16, ``[n_steps]``.
        wrong: bool ``[n_steps]``.
    """
    steps = np.bincount(_bins(successes), minlength=len(BINS))
    errors = np.bincount(_bins(successes), wrong, minlength=len(BINS))
    return [
        float(e / n) if n else float("nan") for e, n in zip(errors, steps, strict=True)
    ]


def intervals(
    rollouts: Rollouts, wrong: np.ndarray, rng: np.random.Generator
) -> list[tuple[float, float]]:
    """95 % intervals of :func:`wrong_by_count` by resampling whole rollouts."""
    return _share_intervals(
        rollouts, _bins(rollouts.successes), wrong, len(BINS), _drawn(rollouts, rng)
    )


def _drawn(rollouts: Rollouts, rng: np.random.Generator) -> np.ndarray:
    """How often each rollout is drawn, ``[replicates, n_rollouts]``."""
    return draw_weights(np.zeros(rollouts.n_rollouts, int), _REPLICATES, rng)


def _share_intervals(
    rollouts: Rollouts, group: np.ndarray, hit: np.ndarray, groups: int, drawn_RxX: Any
) -> list[tuple[float, float]]:
    """Of the share of hits in each group of steps; a negative group is none."""
    row = rollouts.rollout
    ends = []
    for i in range(groups):
        inside = group == i
        steps = np.bincount(row[inside], minlength=rollouts.n_rollouts)
        hits = np.bincount(row[inside], hit[inside], minlength=rollouts.n_rollouts)
        total = drawn_RxX @ steps
        share = (drawn_RxX @ hits)[total > 0] / total[total > 0]
        ends.append(percentile_interval(share) or _NOTHING)
    return ends


def by_position(
    rollouts: Rollouts, wrong: np.ndarray, rng: np.random.Generator
) -> dict[str, Any]:
    """Rates of wrong labels 1[K > 0] in each third of a rollout, and how far position
    tells them, with 95 % intervals by resampling whole rollouts.

    Returns:
        the fields of :class:`theory.placement.NoiseByPosition` and, under
        ``intervals``, those of the two rates and of ``position_auroc``.
    """
    label, position = rollouts.successes > 0, relative_position(rollouts)
    found = noise_by_position(label, ~wrong, position, THIRDS)
    third, drawn_RxX = part_of_rollout(position, THIRDS), _drawn(rollouts, rng)

    def ends(of: np.ndarray, hit: np.ndarray) -> list[tuple[float, float]]:
        group = np.where(of, third, -1)
        return _share_intervals(rollouts, group, hit, THIRDS, drawn_RxX)

    row = rollouts.rollout
    plan = pair_plan(-position[wrong], label[wrong], unit=row[wrong])
    told = _NOTHING
    if len(plan.groups):
        wins, pairs = (one[0] for one in count_pairs(plan, drawn_RxX.T))
        told = percentile_interval(wins[pairs > 0] / pairs[pairs > 0]) or _NOTHING
    values = {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in found._asdict().items()
    }
    return values | {
        "intervals": {
            "positive_if_wrong_B": ends(wrong, label),
            "negative_if_right_B": ends(~wrong, ~label),
            "position_auroc": told,
        }
    }


def scene_steps(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """K and whether each step is wrong, of all steps of a simulated scenes corpus.

    Neutral steps are left out.

    Raises:
        DataError: as :func:`experiments.corpora.scenes.read_truth`.
    """
    from experiments.corpora.scenes import read_truth

    usable = usable_rollouts(read_corpus(folder))
    truth = read_truth(folder, usable.corpus)
    correct = np.concatenate([truth[row].correct for row in usable.row.tolist()])
    judged = correct != 0
    return usable.rollouts.successes[judged], correct[judged] == -1


def run(options: Options) -> None:
    """Read, fit, compare, print."""
    metrics = _measure(read_judged(options.samples), options)
    config = {
        "samples": file_sha256(options.samples),
        "worlds": [folder.name for folder in options.world],
    }
    append_results(options.output, [Result(NAME, config, options.seed, metrics)])
    answer(options.json, metrics, lambda: _text(metrics))


def _measure(judged: Judged, options: Options) -> dict[str, Any]:
    """What judges, the fitted model and simulated scenes say."""
    from sim.corpus.draw import sample_with_latent
    from sim.corpus.fit import fit

    rollouts = judged.rollouts
    try:
        fitted = fit(rollouts)
    except ValueError as error:
        raise DataError(f"{options.samples}: {error}") from None
    rng = np.random.default_rng(options.seed)
    judges = dict(judged.wrong)
    if len(judges) > 1:
        judges["all judges"] = np.logical_and.reduce(list(judges.values()))
    columns = {
        name: wrong_by_count(rollouts.successes, wrong)
        for name, wrong in judges.items()
    }
    spread = {
        name: intervals(rollouts, wrong.astype(np.float64), rng)
        for name, wrong in judges.items()
    }
    model = fitted.models["hierarchical"].model
    scale = max(1.0, _SIMULATED / rollouts.n_rollouts)
    simulated = sample_with_latent(model, fitted.sources, rng, scale, TRIALS)
    columns["model, r < 1/2"] = wrong_by_count(
        simulated.rollouts.successes, simulated.r < 0.5
    )
    for folder in options.world:
        name = f"scenes {folder.parent.name or folder.name}"
        columns[name] = wrong_by_count(*scene_steps(folder))
    negative = rollouts.successes == 0
    steps = np.bincount(_bins(rollouts.successes), minlength=len(BINS))
    return {
        "rollouts": rollouts.n_rollouts,
        "left_out": dict(judged.left_out),
        "steps_by_bin": steps.tolist(),
        "wrong_by_count": columns,
        "intervals": spread,
        "by_position": {
            name: by_position(rollouts, wrong, rng) for name, wrong in judges.items()
        },
        "negative_share": float(negative.mean()),
        "negative_of_wrong": {
            name: float(negative[wrong].mean()) if wrong.any() else float("nan")
            for name, wrong in judges.items()
        },
        "agreement": {
            f"{a} and {b}": float(np.mean(judged.wrong[a] == judged.wrong[b]))
            for a, b in itertools.combinations(judged.wrong, 2)
        },
        "fit": {name: _fit_row(one) for name, one in fitted.models.items()},
    }


def _fit_row(one: ModelFit) -> dict[str, Any]:
    ends = zip(one.low, one.high, strict=True)
    return {
        "method": one.method,
        "parameters": dict(zip(one.parameters, one.estimate, strict=True)),
        "intervals": dict(zip(one.parameters, ends, strict=True)),
        "log_likelihood": one.log_likelihood,
        "misses": one.misses,
    }


def _text(metrics: Mapping[str, Any]) -> str:
    names = [f"K = {a}" if a == b else f"{a}-{b}" for a, b in BINS]
    rows: list[Sequence[str]] = [("steps", *map(str, metrics["steps_by_bin"]))]
    for name, shares in metrics["wrong_by_count"].items():
        rows.append((name, *(_share(share) for share in shares)))
        if name in metrics["intervals"]:
            ends = metrics["intervals"][name]
            rows.append(("", *(f"{_share(a)}-{_share(b)}" for a, b in ends)))
    lines = [f"{n} left out: {reason}" for reason, n in metrics["left_out"].items()]
    lines += [f"P(wrong | K of {TRIALS}), 95 % intervals over rollouts:\n"]
    lines += [format_table(("", *names), rows)]
    lines += ["\nwrong labels 1[K > 0] by third of the rollout, and how far position"]
    lines += ["tells wrong steps labelled 1, which stand early, from the others:\n"]
    lines += [format_table(_POSITION, _position_rows(metrics["by_position"])), ""]
    for name, share in metrics["negative_of_wrong"].items():
        lines += [f"of the steps that {name} calls wrong, K = 0 in {100 * share:.0f} %"]
    for pair, share in metrics["agreement"].items():
        lines += [f"{pair} agree on {100 * share:.0f} % of the steps"]
    lines += ["\ncorpus models fitted to the counts, 95 % intervals:\n"]
    rows = []
    for name, one in metrics["fit"].items():
        parts = [
            f"{key} {value:.3g} ({one['intervals'][key][0]:.3g} to "
            f"{one['intervals'][key][1]:.3g})"
            for key, value in one["parameters"].items()
        ]
        rows.append((name, one["method"], "; ".join(parts)))
        if one["misses"]:
            rows.append(("", "", f"cannot reach {one['misses']}"))
    return "\n".join([*lines, format_table(("model", "by", "parameters"), rows)])


_POSITION = ("", "steps", "first", "middle", "last", "position's AUROC")


def _position_rows(by_judge: Mapping[str, Any]) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = []
    for name, found in by_judge.items():
        for title, rate, steps in (
            ("P(K > 0 | wrong)", "positive_if_wrong_B", "wrong_B"),
            ("P(K = 0 | right)", "negative_if_right_B", "right_B"),
        ):
            of_wrong, ends = steps == "wrong_B", found["intervals"]
            told = _share(found["position_auroc"]) if of_wrong else ""
            shares = (_share(share) for share in found[rate])
            rows.append((f"{name}: {title}", str(sum(found[steps])), *shares, told))
            limits = [*ends[rate], *([ends["position_auroc"]] if of_wrong else [])]
            spans = [f"{_share(a)}-{_share(b)}" for a, b in limits]
            rows.append(("", "", *spans, *([] if of_wrong else [""])))
    return rows


def _share(value: float) -> str:
    return "--" if np.isnan(value) else f"{value:.2f}".removeprefix("0")
