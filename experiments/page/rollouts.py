"""The rollouts a report lets one look at: which, and what each rule made of them."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup

from experiments.page.corpus import Subset, WorldCorpus
from mprm_jax.data.images import decode_image
from mprm_jax.data.write import line_decoder, read_lines
from mprm_jax.records.problems import BadRecord, DataError
from mprm_jax.records.record import Record, resolve_image
from theory import scores
from theory.selection import mix_hash, rule_key

# Larger images are shown reduced: the page holds dozens of them.
_SHOWN_PIXELS = 288


@dataclass(frozen=True)
class StepView:
    """One step: ``truth`` is 1 right, -1 wrong, 0 neutral; r its exact success rate."""

    text: str
    successes: int
    trials: int
    truth: int
    r: float
    pseudo_positive: bool

    @property
    def share(self) -> float:
        """K/N."""
        return self.successes / self.trials if self.trials else 0.0


@dataclass(frozen=True)
class RuleView:
    """Whether a rule kept the rollout, and why."""

    rule: str
    kept: bool
    why: str


@dataclass(frozen=True)
class RolloutView:
    """One rollout as shown.

    Attributes:
        row: in the corpus.
        where: file and line, relative to the world's corpus.
        case: why it is among the examples.
        images: PNG files as data URIs.
        scores: by symbol: p, the share of positive steps; p(1-p); R; BIS at the
            subset's alpha; and the policy's slip rate.
        mixed: it has both labels.
        kept_by_bis: BIS keeps it.
        pseudo_positive: some step is labelled positive and wrong in truth.
    """

    row: int
    where: str
    source: str
    case: str
    question: str
    images: tuple[Markup, ...]
    steps: tuple[StepView, ...]
    scores: Mapping[str, float]
    mixed: bool
    kept_by_bis: bool
    pseudo_positive: bool
    rules: tuple[RuleView, ...]


def cases(world: WorldCorpus) -> dict[str, np.ndarray]:
    """The kinds of rollout worth seeing, bool ``[n_rollouts]`` each; they overlap."""
    rollouts, subsets = world.rollouts, world.subsets
    n, n_pos = rollouts.n_measured, rollouts.n_positive
    mixed = (n_pos > 0) & (n_pos < n)
    pseudo = rollouts.total(world.pseudo_positive) > 0
    kept = subsets["bis"].kept
    kinds = {
        "mixed, kept by BIS": mixed & kept,
        "pseudo-positive, kept by BIS": pseudo & kept,
        "mixed, left out by BIS": mixed & ~kept,
        "pseudo-positive, left out by BIS": pseudo & ~kept,
        "all steps positive, kept by BIS": (n_pos == n) & kept,
        "all steps positive, left out by BIS": (n_pos == n) & ~kept,
        "no step positive, kept by BIS": (n_pos == 0) & kept,
        "no step positive, left out by BIS": (n_pos == 0) & ~kept,
    }
    for rule, subset in subsets.items():
        if rule != "bis":
            kinds[f"kept by {rule}, not by BIS"] = subset.kept & ~kept
    return kinds


def choose_examples(world: WorldCorpus, limit: int) -> dict[int, str]:
    """Rows to show, each with its case: every case in turn gives one until the limit.

    Within a case the sources take turns, each in the order of its rollouts' content
    hashes; so the choice depends on the corpus alone, not on the order of its lines.
    """
    hashed = mix_hash(world.corpus.content, 0)
    source = world.rollouts.source
    queues = []
    for name, mask in cases(world).items():
        rows = np.flatnonzero(mask)
        rows = rows[np.argsort(hashed[rows], kind="stable")]
        turn = np.zeros(len(rows), np.int64)
        for s in np.unique(source[rows]):
            of = source[rows] == s
            turn[of] = np.arange(np.count_nonzero(of))
        queues.append((name, iter(rows[np.argsort(turn, kind="stable")].tolist())))
    chosen: dict[int, str] = {}
    while queues and len(chosen) < limit:
        for queue in list(queues):
            name, rows = queue
            row = next((row for row in rows if row not in chosen), None)
            if row is None:
                queues.remove(queue)
            elif len(chosen) < limit:
                chosen[row] = name
    return chosen


def view_examples(world: WorldCorpus, limit: int) -> list[RolloutView]:
    """The chosen rollouts with texts and images, grouped by case, then by row.

    Raises:
        DataError: an image is missing or unreadable, or a manifest's rows contradict
            its cuts.
    """
    chosen = choose_examples(world, limit)
    rollouts, corpus = world.rollouts, world.corpus
    keys = {
        rule: rule_key(of.rule, rollouts, of.alpha, of.keep_ratio)
        for rule, of in ((name, s.options) for name, s in world.subsets.items())
    }
    n, n_pos = rollouts.n_measured, rollouts.n_positive
    columns = {
        "p": n_pos / n,
        "p(1−p)": scores.label_mixture(rollouts),
        "R": scores.reliability(rollouts),
        "BIS": scores.bis(rollouts, world.subsets["bis"].options.alpha),
        "slip rate": world.slip_rate,
    }
    pseudo = world.pseudo_positive
    views = []
    rows, decode = np.array(sorted(chosen), np.int64), line_decoder(corpus)
    for row, line in read_lines(corpus, rows):
        record = decode(row, line)
        steps = slice(int(rollouts.offsets[row]), int(rollouts.offsets[row + 1]))
        path = corpus.files[corpus.file[row]].path
        source = rollouts.source_names[rollouts.source[row]]
        views.append(
            RolloutView(
                row=row,
                where=f"{path.relative_to(world.folder)}:{corpus.line[row]}",
                source=source,
                case=chosen[row],
                question=record.question,
                images=tuple(_images(world.folder, record, corpus.where(row))),
                steps=tuple(
                    StepView(text.text, int(k), int(t), int(c), float(r), bool(f))
                    for text, k, t, c, r, f in zip(
                        record.steps,
                        rollouts.successes[steps],
                        rollouts.trials[steps],
                        world.correct[steps],
                        world.r[steps],
                        pseudo[steps],
                        strict=True,
                    )
                ),
                scores={name: float(of[row]) for name, of in columns.items()},
                mixed=bool(0 < n_pos[row] < n[row]),
                kept_by_bis=bool(world.subsets["bis"].kept[row]),
                pseudo_positive=bool(np.any(pseudo[steps])),
                rules=tuple(
                    RuleView(rule, bool(of.kept[row]), why(of, keys[rule], row, source))
                    for rule, of in world.subsets.items()
                ),
            )
        )
    order = list(cases(world))
    return sorted(views, key=lambda view: (order.index(view.case), view.row))


def why(subset: Subset, keys: np.ndarray, row: int, source: str) -> str:
    """Why a rule kept a rollout or left it out, from its key and the cut it met.

    Args:
        subset: what the rule kept.
        keys: by which the rule ranks, ``[n_rollouts]``.
        row: the rollout.
        source: its source.

    Raises:
        DataError: the key is on the other side of the cut than the manifest says.
    """
    kept, cut, key = bool(subset.kept[row]), subset.cut(source), float(keys[row])
    rule = subset.options.rule
    if rule in ("random", "step-matched-random"):
        return f"drawn: {cut.kept} of {cut.available}" if kept else "not drawn"
    if cut.cut_value is None:
        return "drawn from its stratum" if kept else "not drawn from its stratum"
    if (kept and key < cut.cut_value) or (not kept and key > cut.cut_value):
        raise DataError(
            f"rule {rule}, row {row}: key {key:g} and cut {cut.cut_value:g} "
            "contradict the manifest's rows"
        )
    if rule == "mixed":
        return _why_mixed(kept, key > 0, cut.cut_value > 0)
    name, sign = _KEY_NAMES.get(rule, ("score", 1))
    value, at = f"{name} {sign * key:.4f}", f"{sign * cut.cut_value:.4f}"
    if key == cut.cut_value:
        if kept:
            tied = " and chosen among equals" if cut.tied_kept else ""
            return f"{value}: at the cut{tied}"
        return f"{value}: at the cut, not chosen among equals"
    side = "above" if (key > cut.cut_value) == (sign > 0) else "below"
    return f"{value}: {side} the cut {at}"


# Low-MC ranks by -mean; the reader is told of the mean.
_KEY_NAMES = {
    "bis": ("BIS", 1),
    "reliable": ("R", 1),
    "low-mc": ("mean MC", -1),
    "mixture": ("p(1−p)", 1),
}


def _why_mixed(kept: bool, mixed: bool, cut_is_mixed: bool) -> str:
    if not mixed:
        return "one label only: random fill" if kept else "one label only: not drawn"
    if not cut_is_mixed:
        return "both labels: kept before the random fill"
    drawn = "drawn" if kept else "not drawn"
    return f"both labels: {drawn} among more mixed rollouts than the budget"


def _images(folder: Path, record: Record, where: str) -> list[Markup]:
    try:
        return [_data_uri(_find(folder, image), image) for image in record.images]
    except BadRecord as error:
        raise DataError(f"{where}: {error}") from None


def _data_uri(path: Path, image: str) -> Markup:
    # Drawn anew, so that nothing but pixels of an untrusted file reaches the page.
    shown = decode_image(path, image)
    shown.thumbnail((_SHOWN_PIXELS, _SHOWN_PIXELS))
    buffer = io.BytesIO()
    shown.save(buffer, "PNG", optimize=True)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return Markup("data:image/png;base64," + encoded)


def _find(folder: Path, image: str) -> Path:
    # A simulated record may name its image from the corpus or from its images/.
    try:
        return resolve_image(folder, image)
    except BadRecord:
        return resolve_image(folder / "images", image)
