"""A session in Python: what ``import mprm_jax as mprm`` offers.

    import mprm_jax as mprm

    mprm.simulate_corpus("corpus", scale=0.002)
    corpus = mprm.read_corpus("corpus")
    subset = mprm.select(corpus, "bis", keep_ratio=0.1)
    mprm.write_subset(subset, "subset.jsonl")

JAX is imported by what trains and what a model scores with, and by nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from experiments.console.errors import missing_library
from experiments.corpora import simulated
from experiments.store import read_subset
from experiments.store import write_subset as store
from experiments.store.own_scores import places
from experiments.store.results import Result
from experiments.store.write_subset import (
    OwnScores,
    choose,
    own_scores,
    write_selection,
)
from mprm_jax.compare import ScoreComparison, Scores, compare, decide_both, match
from mprm_jax.data import corpus as corpora
from mprm_jax.data.corpus import SelectableCorpus, usable_rollouts
from mprm_jax.data.formats.base import LabelKind, ReadOptions, WriteOptions
from mprm_jax.data.scored import Prediction, columns, read_predictions
from mprm_jax.decision import ThresholdChoice, decide
from mprm_jax.records.problems import BadCorpus
from mprm_jax.records.record import UnmeasuredPolicy
from mprm_jax.summary import Evaluation, evaluation
from mprm_jax.train.config import LossKind
from theory.domain import check_count
from theory.intervals import REPLICATES
from theory.scores import DEFAULT_ALPHA
from theory.selection import (
    RULE_NAMES,
    BudgetUnit,
    RuleName,
    Selection,
    SelectionOptions,
    TieRule,
    rule_key,
)
from theory.summary import Summary, summarise

if TYPE_CHECKING:
    import pandas as pd

    from experiments.students.contrasts import Comparison
    from experiments.students.worlds import World
    from mprm_jax.models.model import Model, Params
    from theory.rollouts import Rollouts

RULES = RULE_NAMES


def read_corpus(
    path: str | Path,
    format: str = "auto",
    *,
    unmeasured: UnmeasuredPolicy = "error",
    max_bad: int = 0,
    trials: int | None = None,
    source_from: str | None = None,
    cache: bool = True,
) -> SelectableCorpus:
    """Read a corpus: its counts, where each rollout lies, and what was refused.

    Args:
        path: a file, a folder of files, or a folder that holds ``annotations/``.
        format: of its files; "auto": told by the first record.
        unmeasured: what a step that was never sampled means.
        max_bad: bad lines to go on without.
        trials: N, where the format holds soft labels but no counts.
        source_from: field that names a rollout's source; by default its file does.
        cache: keep an index beside the corpus, and use one that is there.

    Returns:
        ``.rollouts`` has the counts K and N of every step as arrays.

    Raises:
        DataError: a file cannot be read, or more than ``max_bad`` lines are bad.

    Example:
        >>> import mprm_jax as mprm
        >>> _ = mprm.simulate_corpus("corpus", scale=0.0005)
        >>> mprm.read_corpus("corpus").rollouts.n_rollouts
        285
    """
    options = ReadOptions(trials, source_from)
    found = corpora.read_corpus(Path(path), format, options, use_cache=cache)
    return usable_rollouts(found, unmeasured, max_bad)


def frame(corpus: SelectableCorpus, *scores: str) -> pd.DataFrame:
    """A row per rollout, as ``mprm score`` writes it: source, file, line, id, n_steps,
    n_positive, mean_mc, and the scores named.

    ``id`` is the hash of the record's bytes, the same wherever it lies.

    Raises:
        ImportError: pandas is not installed.
        ValueError: no score of that name.

    Example:
        >>> import mprm_jax as mprm
        >>> _ = mprm.simulate_corpus("corpus", scale=0.0005)
        >>> table = mprm.frame(mprm.read_corpus("corpus"), "bis")
        >>> list(table.columns[:4]), len(table)
        (['source', 'file', 'line', 'id'], 285)
    """
    try:
        import pandas as pd
    except ModuleNotFoundError as error:
        raise ImportError(missing_library(error)) from None

    rollouts = corpus.rollouts
    table = {
        "source": np.array(rollouts.source_names)[rollouts.source],
        **places(corpus),
        "n_steps": rollouts.lengths,
        "n_positive": rollouts.n_positive,
        "mean_mc": -rule_key("low-mc", rollouts),
    }
    return pd.DataFrame(table | {name: score(corpus, name) for name in scores})


def score(
    corpus: SelectableCorpus,
    rule: str,
    alpha: float = DEFAULT_ALPHA,
    keep_ratio: float | None = None,
) -> np.ndarray:
    """What a rule ranks by, larger first, float64 ``[n_rollouts]``.

    ``contrast`` ranks by another score at another keep ratio; without one, by that of
    the best subset of any size. No other rule reads it.

    Raises:
        ValueError: no such rule, or its score is undefined on this corpus.

    Example:
        >>> import mprm_jax as mprm
        >>> _ = mprm.simulate_corpus("corpus", scale=0.0005)
        >>> bis = mprm.score(mprm.read_corpus("corpus"), "bis")
        >>> bool(bis.max() <= 0.3)  # at most p(1-p) = 1/4, plus alpha = 0.05
        True
    """
    if rule not in RULES:
        raise ValueError(f"unknown rule {rule!r}; known: {', '.join(RULES)}")
    return rule_key(rule, corpus.rollouts, alpha, keep_ratio)


@dataclass(frozen=True)
class Subset(read_subset.Subset):
    """Rollouts that were selected, and the evidence for it.

    Attributes:
        evidence: rows and cuts.
        options: what was asked for.
    """

    evidence: Selection
    options: SelectionOptions | OwnScores

    @property
    def summary(self) -> Summary:
        """The columns of the paper's Table 1, of the subset."""
        kept = self.usable.rollouts.take(self.usable_rows)
        return summarise(kept, self.options.alpha)


def select(
    corpus: SelectableCorpus,
    rule: RuleName | np.ndarray,
    keep_ratio: float,
    *,
    alpha: float = DEFAULT_ALPHA,
    per_source: bool = True,
    unit: BudgetUnit = "rollouts",
    ties: TieRule = "content",
    seed: int = 0,
) -> Subset:
    """The rollouts to train on, by a rule of :data:`RULES` or by anyone's scores.

    Budgets, ties and evidence are the same for both; the arguments are those of
    :func:`theory.selection.select`.

    Raises:
        ValueError: an argument is out of its range, or scores do not fit the corpus.
        DataError: the rule's score is undefined on this corpus.

    Example:
        >>> import mprm_jax as mprm
        >>> _ = mprm.simulate_corpus("corpus", scale=0.0005)
        >>> corpus = mprm.read_corpus("corpus")
        >>> subset = mprm.select(corpus, "bis", keep_ratio=0.1)
        >>> mine = mprm.select(corpus, mprm.score(corpus, "bis"), keep_ratio=0.1)
        >>> bool((mine.usable_rows == subset.usable_rows).all())
        True
    """
    named = rule if isinstance(rule, str) else "random"
    options: SelectionOptions | OwnScores = SelectionOptions(
        named, keep_ratio, alpha, per_source, unit, ties, seed
    )
    if isinstance(rule, str):
        evidence = choose(corpus, options)
    else:
        scores = np.asarray(rule, np.float64)
        options = own_scores(scores, options)
        evidence = options.choose(corpus, scores)
    chosen = {"rule": options.rule, "keep_ratio": keep_ratio, "seed": seed}
    return Subset(corpus, evidence.rows, chosen, evidence, options)


def write_subset(
    subset: Subset,
    output: str | Path,
    format: str = "prm",
    *,
    labels: LabelKind = "hard",
    label_threshold: float = 0.0,
    images: str | Path | None = None,
) -> dict[str, Any]:
    """Write a subset as a trainer reads it, with the manifest that ``mprm verify``
    checks beside it.

    Args:
        subset: of :func:`select`.
        output: file to write.
        format: one that can be written; "rows" writes the manifest alone.
        labels: hard, 1[s > label_threshold], the MC scores s themselves, or masked:
            hard ones, but none of doubtful positives.
        label_threshold: in [0, 1).
        images: root of the image paths, for InternVL's meta file.

    Returns:
        the manifest.

    Raises:
        DataError: the output is a file of the corpus, or the format cannot hold a
            record.

    Example:
        >>> import mprm_jax as mprm
        >>> _ = mprm.simulate_corpus("corpus", scale=0.0005)
        >>> subset = mprm.select(mprm.read_corpus("corpus"), "bis", 0.1)
        >>> manifest = mprm.write_subset(subset, "subset.jsonl")
        >>> manifest["output"]["rollouts"] == len(subset.usable_rows)
        True
    """
    output = Path(output)
    store.check_output(output, subset.usable.corpus.path)
    root = None if images is None else Path(images)
    written = WriteOptions(labels, label_threshold)
    usable, chosen = subset.usable, subset.evidence
    try:
        return write_selection(
            usable, chosen, subset.options, output, format, written, root
        )
    except store.Unwritable as error:
        # Every such line is named, not the first alone.
        raise BadCorpus(usable.lines_of(error.refused)) from None


@dataclass(frozen=True)
class Comparisons:
    """What students learned from the subsets of several rules; printed as tables.

    Attributes:
        results: one per rule, ``.metrics`` with a value per seed of each metric.
        differences: from the rule compared with, paired by seed, with intervals and
            p-values that Holm corrected together.
    """

    results: list[Result]
    differences: list[Comparison]

    def __str__(self) -> str:
        from experiments.students.sweeps import as_text

        return as_text("rules", self.results, self.differences)


def compare_rules(
    rules: Sequence[str | Callable[[Rollouts], Any]],
    world: str | World = "scarce",
    keep_ratio: float = 0.1,
    *,
    against: str = "random",
    seeds: int = 20,
    seed: int = 0,
) -> Comparisons:
    """The ablation of one's own rules in a simulated world: students of known truth are
    trained on what each keeps, with paired seeds.

    Args:
        rules: of :data:`RULES`, or functions: given the counts of a corpus
            (:class:`theory.rollouts.Rollouts`), a function returns a finite number for
            each rollout, the largest kept first.
        world: one of :func:`experiments.students.worlds.worlds`, or one's own.
        keep_ratio: share of the rollouts of each source to keep, in (0, 1].
        against: the rule that the others are compared with.
        seeds: how many; about a second each 4 with the default world.
        seed: seeds are 1000 seed, 1000 seed + 1, ...

    Raises:
        ValueError: an argument is out of its range, or the world cannot be simulated.
        DataError: a function fails, or gives other than a finite number per rollout.

    Example:
        >>> import mprm_jax as mprm
        >>> def least_sure(rollouts):
        ...     return rollouts.total(rollouts.successes == 1)
        >>> found = mprm.compare_rules([least_sure, "bis"], seeds=2)
        >>> [difference.claim for difference in found.differences]
        ['least_sure > random at 10 %', 'bis > random at 10 %']
    """
    from experiments.students import runs, sweeps, worlds
    from experiments.students.arms import Arm
    from experiments.students.contrasts import compare
    from experiments.students.own_rule import own_rule

    check_count("seeds", seeds, 1)
    if isinstance(world, str):
        if world not in worlds.worlds():
            known = ", ".join(worlds.worlds())
            raise ValueError(f"unknown world {world!r}; known: {known}")
        world = worlds.worlds()[world]
    named = [of if isinstance(of, str) else own_rule(of) for of in (*rules, against)]
    for of in named:
        if type(of) is str and of not in RULES:
            raise ValueError(f"unknown rule {of!r}; known: {', '.join(RULES)}")
    if len(set(named[:-1])) < len(named) - 1:
        raise ValueError(f"two rules of one name: {', '.join(named[:-1])}")
    arms = [Arm(of, keep_ratio) for of in dict.fromkeys(named)]
    found = runs.run_arms(world, arms, runs.seed_numbers(seed, seeds))
    results = [
        Result(
            "rules",
            {"world": worlds.describe(world), "arm": runs.arm_as_json(arm)},
            seed,
            metrics,
            {},
        )
        for arm, metrics in zip(arms, found, strict=True)
    ]
    contrasts = [
        sweeps.rule_contrast(of, against, f"{of} > {against}", keep_ratio)
        for of in named[:-1]
        if of != against
    ]
    return Comparisons(results, compare(results, contrasts))


def simulate_corpus(
    output: str | Path, *, scale: float = 0.01, seed: int = 0
) -> list[Path]:
    """A corpus of Monte-Carlo counts calibrated to the paper's label statistics, on
    disk in the raw format.

    Args:
        output: folder; files of an earlier simulation are replaced.
        scale: of the paper's 565,096 rollouts.
        seed: of every draw.

    Returns:
        the files.

    Example:
        >>> import mprm_jax as mprm
        >>> len(mprm.simulate_corpus("corpus", scale=0.0005))
        38
    """
    from sim import PAPER_MODELS, PAPER_SOURCES, sample
    from theory.paper import TRIALS

    counts, text = np.random.default_rng(seed).spawn(2)
    model = PAPER_MODELS["hierarchical"]
    rollouts = sample(model, PAPER_SOURCES, counts, scale, TRIALS)
    made = {"model": "hierarchical", "scale": scale, "seed": seed}
    return simulated.write_raw_corpus(Path(output), rollouts, text, made)


def simulate_scenes(
    output: str | Path,
    world: str = "scarce",
    *,
    rollouts: int = 500,
    judged: int = 100,
    problems: int = 50,
    seed: int = 0,
) -> Path:
    """A visual world whose truth is known: pictures, solutions labelled by really
    re-running a policy, a benchmark, and candidates for best-of-N.

    Args:
        output: folder; the corpus lies in it, the benchmark in ``benchmark/``.
        world: of :data:`sim.scenes.world.WORLDS`.
        rollouts: of the corpus.
        judged: solutions of the benchmark.
        problems: with candidates.
        seed: of every draw.

    Returns:
        the folder.

    Example:
        >>> import mprm_jax as mprm
        >>> world = mprm.simulate_scenes("world", rollouts=20, judged=10, problems=5)
        >>> mprm.read_corpus(world).rollouts.n_rollouts
        20
    """
    from experiments.corpora.scenes import write_world
    from sim.scenes.world import WORLDS

    write_world(
        Path(output),
        WORLDS[world],
        rollouts=rollouts,
        judged=judged,
        problems=problems,
        seed=seed,
    )
    return Path(output)


class Trained(NamedTuple):
    """A model of pure functions, and its parameters."""

    model: Model
    params: Params


def load_model(name: str | Path = "tiny") -> Trained:
    """A model: "tiny", released weights, or the folder of a training run.

    Raises:
        DataError: there is none of that name.

    Example:
        >>> import mprm_jax as mprm
        >>> mprm.load_model("tiny").model.config.width
        64
    """
    from mprm_jax.train.open_model import open_model

    return Trained(*open_model(str(name)))


def train_model(
    data: SelectableCorpus | Subset,
    output: str | Path | None = None,
    *,
    model: str | Path = "tiny",
    batch_size: int | None = None,
    learning_rate: float | None = None,
    labels: LossKind = "hard",
    images: str | Path | None = None,
    seed: int = 0,
) -> Trained:
    """Train a process reward model on a corpus or a subset of it, in one pass.

    Args:
        data: what to train on.
        output: folder for the model, its checkpoints and metrics; None: none is kept.
        model: as :func:`load_model` takes it; a backbone is trained whole, on every
            device. ``mprm train`` has all settings.
        batch_size: rollouts per update (the paper's for a backbone, 16 for tiny).
        learning_rate: peak of the schedule (the paper's, 3.125e-5 for tiny).
        labels: what a step's counts become.
        images: root of the image paths; by default they lie beside the corpus.
        seed: of the order of the rollouts.

    Raises:
        DataError: a rollout cannot be read, or ``output`` holds another run.
        ValueError: a setting is out of its range.

    Example:
        >>> import mprm_jax as mprm
        >>> world = mprm.simulate_scenes("world", rollouts=20, judged=10, problems=5)
        >>> trained = mprm.train_model(mprm.read_corpus(world), batch_size=10)
        >>> len(mprm.predict(trained, world / "benchmark" / "test.jsonl"))
        10
    """
    from experiments.console.price import TrainingData, fitted
    from experiments.console.training import (
        ObjectiveOptions,
        TrainingOptions,
        open_model,
    )
    from mprm_jax.data.batches import open_ladder
    from mprm_jax.train import loop
    from mprm_jax.train.run_files import RunFolder

    subset = data
    if not isinstance(subset, read_subset.Subset):
        subset = read_subset.Subset(subset, np.arange(len(subset.row)), None)
    options = TrainingOptions(
        model=str(model),
        batch_size=batch_size,
        learning_rate=learning_rate,
        objective=ObjectiveOptions(labels),
        seed=seed,
    )
    plan = options.budget(len(subset.usable_rows), len(subset.usable.row))
    root = None if images is None else Path(images)
    longest = int(subset.usable.rollouts.lengths[subset.usable_rows].max())
    source_for = partial(read_subset.examples, subset, images=root)
    options, _ = fitted(options, TrainingData(source_for, longest, plan))
    network, params, mesh = open_model(options, plan)
    job = loop.TrainingJob(
        network,
        source_for(network.encode),
        plan,
        open_ladder(longest),
        options.config(),
    )
    folder = None
    if output is not None:
        folder = RunFolder(Path(output), base=options.base())
    return Trained(network, loop.train(job, params, folder, mesh=mesh))


def predict(
    trained: Trained,
    benchmark: str | Path,
    *,
    images: str | Path | None = None,
    batch_size: int = 32,
) -> list[Prediction]:
    """A model's score of every step of a benchmark's solutions.

    Args:
        trained: model and parameters.
        benchmark: file of judged solutions (VisualProcessBench, ProcessBench, PRMBench
            or VLRMBench, told by its records), or a folder of such files.
        images: root of the image paths; by default beside the file.
        batch_size: prompts that are scored at a time.

    Raises:
        DataError: the file or a picture cannot be used; the message names it.

    Example: see :func:`train_model`.
    """
    from mprm_jax.data.scored import read_benchmark, solutions_root, without_repeats
    from mprm_jax.evaluate import Scoring
    from mprm_jax.evaluate import predict as scored

    path = Path(benchmark)
    solutions = without_repeats(read_benchmark(path))
    root = solutions_root(path, solutions) if images is None else Path(images)
    how = Scoring(batch_size, threads=2)
    return scored(trained.model, trained.params, solutions, root, how)


def evaluate_scores(
    scores: str | Path | Sequence[Prediction],
    *,
    threshold: float | None = None,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Evaluation:
    """All metrics of step scores, a model's of :func:`predict` or anyone's in a file.

    Args:
        scores: predictions, or a file of them.
        threshold: to call a step right; None: the best for micro-F1 on a part of the
            rollouts that is then left out.
        replicates: of the bootstrap behind the intervals; 0 for none.
        seed: of the bootstrap.

    Raises:
        DataError: there is no counted step.

    Example:
        >>> import mprm_jax as mprm
        >>> world = mprm.simulate_scenes("world", rollouts=5, judged=40, problems=5)
        >>> benchmark = world / "benchmark" / "test.jsonl"
        >>> found = mprm.predict(mprm.load_model("tiny"), benchmark)
        >>> metrics = mprm.evaluate_scores(found, threshold=0.5, replicates=0)
        >>> 0 <= metrics.micro_f1 <= 1
        True
    """
    steps = columns(_predictions(scores))
    decision, left = decide(steps, *_protocol(threshold))
    return evaluation(steps.take(left), decision, replicates=replicates, seed=seed)


def compare_scores(
    first: str | Path | Sequence[Prediction],
    second: str | Path | Sequence[Prediction],
    *,
    threshold: float | None = None,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> ScoreComparison:
    """The second model's metrics less the first's, on the same responses.

    Args:
        first: scores as :func:`evaluate_scores` takes them.
        second: the other model's, of all the same responses, matched by id.
        threshold: as there, as replicates and seed are; the same for both models.

    Raises:
        DataError: the responses are not the same, or have no counted step.

    Example:
        >>> import mprm_jax as mprm
        >>> from pathlib import Path
        >>> for name, wrong in ("A", 0.2), ("B", 0.8):
        ...     judged = f'"labels_per_step": [1, -1], "scores": [0.9, {wrong}]'
        ...     line = f'{{"id": 1, "data_source": "mine", {judged}}}'
        ...     _ = Path(name).write_text(line)
        >>> found = mprm.compare_scores("A", "B", threshold=0.5, replicates=0)
        >>> found.metrics["false_positive_rate"].difference
        1.0
    """
    pair = Scores("first", _predictions(first)), Scores("second", _predictions(second))
    decided = decide_both(match(*pair), *_protocol(threshold))
    return compare(decided, replicates, seed)


def _predictions(scores: str | Path | Sequence[Prediction]) -> Sequence[Prediction]:
    return read_predictions(Path(scores)) if isinstance(scores, str | Path) else scores


def _protocol(threshold: float | None) -> tuple[ThresholdChoice, float]:
    return ("held-out", 0.5) if threshold is None else ("fixed", threshold)
