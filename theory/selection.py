"""Which rollouts a rule keeps under a budget, and the evidence for the cut.

A rule ranks the rollouts of a group (a source, or the whole corpus) by a key; the best
are kept until the budget is spent. Equal keys are ordered by a seeded hash of the
rollout's content, so the subset does not depend on the order or sharding of the files;
on a corpus shaped like the paper's most picks at 25 % are decided by that rule, so how
many were is always reported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, get_args

import numpy as np

from theory import scores
from theory.rollouts import Rollouts

RuleName = Literal[
    "random",
    "bis",
    "mixed",
    "reliable",
    "low-mc",
    "mixture",
    "unbiased-mixture",
    "small-loss",
    "mc-variance",
    "max-drop",
    "negative-count",
    "mc-uncertainty",
    "shrunken-bis",
    "posterior-fisher",
    "contrast",
    "ccs",
    "step-matched-random",
]
RULE_NAMES: tuple[RuleName, ...] = get_args(RuleName)

# Their scores depend on N, not on K/N alone.
NEEDS_TRIALS = frozenset({"shrunken-bis", "posterior-fisher", "contrast"})

TieRule = Literal["content", "file"]
BudgetUnit = Literal["rollouts", "steps"]

# Zheng et al. (ICLR 2023), "Coverage-centric coreset selection", use 50 strata.
CCS_STRATA = 50

# What these rules keep beyond their key is random by definition, whatever the tie rule.
_RANDOM_FILL = frozenset({"random", "mixed", "ccs", "step-matched-random"})


# These rank nothing: a pick says nothing of a score, and no score is equal to another.
UNRANKED = frozenset({"random", "step-matched-random"})

# These keep no prefix of a ranking, so that steps cannot be their budget.
_NO_STEP_BUDGET = frozenset({"ccs", "step-matched-random"})


@dataclass(frozen=True)
class SelectionOptions:
    """Everything a selection depends on besides the corpus; see :func:`select`.

    Raises:
        ValueError: a value is out of its range, or the rule has no budget of steps.
    """

    rule: RuleName
    keep_ratio: float
    alpha: float
    per_source: bool
    unit: BudgetUnit
    ties: TieRule
    seed: int

    def __post_init__(self) -> None:
        budget(1, self.keep_ratio)
        scores.check_alpha(self.alpha)
        if self.unit == "steps" and self.rule in _NO_STEP_BUDGET:
            raise ValueError(f"rule {self.rule} has no budget of steps")


@dataclass(frozen=True)
class Cut:
    """Evidence for one group's cut.

    Attributes:
        group: name of the source, or "all" for a global budget.
        available: rollouts in the group.
        available_steps: their steps.
        budget: rollouts (or steps) the group may keep.
        kept: rollouts kept.
        kept_steps: their steps.
        cut_value: key of the worst rollout kept; None for a rule without a cut (ccs).
        tied_kept: rollouts kept at the cut value although an equal one was left out:
            those that the tie rule chose, not the key.
    """

    group: str
    available: int
    available_steps: int
    budget: int
    kept: int
    kept_steps: int
    cut_value: float | None
    tied_kept: int


@dataclass(frozen=True, eq=False)
class Selection:
    """A subset: ascending int64 rows of the corpus, and one :class:`Cut` per group."""

    rows: np.ndarray
    cuts: tuple[Cut, ...]

    @property
    def tied_share(self) -> float:
        """Fraction of the picks that the tie rule decided at a cut, in [0, 1].

        0 for ccs, which has no cut: it picks at random within its strata.
        """
        return sum(cut.tied_kept for cut in self.cuts) / max(len(self.rows), 1)


def budget(available: int, keep_ratio: float) -> int:
    """``max(1, floor(available * keep_ratio))``, keep_ratio read as the decimal it
    prints as: 29 of 100 at 0.29, where binary floating point gives 28. At most
    ``available``; 0 if nothing is available.

    Raises:
        ValueError: ``keep_ratio`` is not in (0, 1].
    """
    if not 0 < keep_ratio <= 1:
        raise ValueError(f"keep_ratio must lie in (0, 1], not {keep_ratio}")
    kept = int(available * Fraction(repr(float(keep_ratio))))
    return min(max(1, kept), available)


def mix_hash(content: np.ndarray, seed: int) -> np.ndarray:
    """Seeded 64-bit order of content hashes: splitmix64(content xor splitmix64(seed)).

    Args:
        content: uint64 ``[n]``.
        seed: any integer; its low 64 bits count.

    Returns:
        uint64 ``[n]``, a bijection of ``content`` for each seed (Steele, Lea and Flood,
        OOPSLA 2014).
    """
    salt = _splitmix64(np.array([seed % 2**64], np.uint64))
    return _splitmix64(np.asarray(content, np.uint64) ^ salt)


def _splitmix64(x: np.ndarray) -> np.ndarray:
    z = x + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def rule_key(
    rule: RuleName,
    rollouts: Rollouts,
    alpha: float = scores.DEFAULT_ALPHA,
    keep_ratio: float | None = None,
) -> np.ndarray:
    """Key by which a rule ranks, larger first, float64 ``[n_rollouts]``.

    ``random`` and ``step-matched-random`` rank nothing (all 0: ties decide); ``ccs``
    stratifies BIS. ``shrunken-bis``, ``posterior-fisher`` and ``contrast`` take the
    Beta prior that :func:`theory.scores.moment_prior` fits to this corpus.

    ``contrast`` ranks by ``2 C - J V`` of :func:`theory.contrast.expected_contrast`, at
    the J of the best subset of ``keep_ratio`` of the corpus (None: of any size); no
    other rule reads ``keep_ratio``. Pure rollouts are worth 0, and mixed ones less
    where C / V < J / 2.

    Raises:
        ValueError: the rule is unknown, or its score is undefined on this corpus.
    """
    return fitted_key(rule, rollouts, alpha, keep_ratio)(rollouts)


def fitted_key(
    rule: RuleName, corpus: Rollouts, alpha: float, keep_ratio: float | None
) -> Callable[[Rollouts], np.ndarray]:
    """:func:`rule_key` as a function of counts: the prior and the J that a rule takes
    are fitted to this corpus once. Arguments and errors are those of ``rule_key``.
    """
    if rule in _KEYS:
        return lambda x: _KEYS[rule](x, alpha)
    if rule not in RULE_NAMES:
        raise ValueError(f"unknown rule {rule!r}; known: {', '.join(RULE_NAMES)}")
    prior = scores.moment_prior(corpus)
    if rule == "shrunken-bis":
        return lambda x: scores.shrunken_bis(x, *prior, alpha)
    # Imported here: they need scipy, which would double start-up.
    if rule == "posterior-fisher":
        from theory.beta_binomial import posterior_fisher

        return lambda x: posterior_fisher(x, *prior)
    from theory.contrast import best_subset, expected_contrast

    own = expected_contrast(corpus, *prior)
    # One J for all sources, though each has a budget of its own: what that costs of the
    # efficiency is at most .4 % in the students' worlds.
    size = None if keep_ratio is None else budget(corpus.n_rollouts, keep_ratio)
    ratio = best_subset(*own, size).ratio

    def contrast(x: Rollouts) -> np.ndarray:
        c, v = own if x is corpus else expected_contrast(x, *prior)
        return 2 * c - ratio * v

    return contrast


_KEYS: dict[RuleName, Callable[[Rollouts, float], np.ndarray]] = {
    "random": lambda x, alpha: np.zeros(x.n_rollouts),
    "bis": scores.bis,
    "mixed": lambda x, alpha: (scores.label_mixture(x) > 0).astype(np.float64),
    "reliable": lambda x, alpha: scores.reliability(x),
    "low-mc": lambda x, alpha: -scores.mean_mc(x),
    "mixture": lambda x, alpha: scores.label_mixture(x),
    "unbiased-mixture": lambda x, alpha: scores.unbiased_mixture(x),
    "small-loss": lambda x, alpha: scores.reliability(x, all_negative=0.0),
    "mc-variance": lambda x, alpha: scores.mc_variance(x),
    "max-drop": lambda x, alpha: scores.max_drop(x),
    "negative-count": lambda x, alpha: scores.negative_count(x),
    "mc-uncertainty": lambda x, alpha: scores.mc_uncertainty(x),
    "ccs": scores.bis,
    "step-matched-random": lambda x, alpha: np.zeros(x.n_rollouts),
}


def select(
    rollouts: Rollouts,
    rule: RuleName | np.ndarray,
    keep_ratio: float,
    content: np.ndarray,
    *,
    alpha: float = scores.DEFAULT_ALPHA,
    per_source: bool = True,
    unit: BudgetUnit = "rollouts",
    ties: TieRule = "content",
    seed: int = 0,
) -> Selection:
    """Keep the best ``keep_ratio`` of the rollouts under a rule.

    Random orders of all rules share the seed (common random numbers), so differences
    between rules are not blurred by different fillers.

    Args:
        rollouts: the corpus.
        rule: what to keep: a rule's name, or anyone's scores, finite ``[n_rollouts]``,
            of which the largest are kept.
        keep_ratio: rho in (0, 1], of the rollouts (or steps) of each group.
        content: uint64 ``[n_rollouts]``, a hash of each rollout's content.
        alpha: BIS's alpha; other rules ignore it.
        per_source: one budget per source, as in the paper, or one for the whole corpus.
        unit: "rollouts": keep :func:`budget` of them. "steps": keep the longest prefix
            of the ranking whose steps fit into :func:`budget` of the group's steps (at
            least one rollout).
        ties: "content" (seeded hash) or "file" (earlier rows first, as the release).
            What random, mixed, ccs and step-matched-random fill with is random anyway.
        seed: of the tie order and of every random choice.

    Raises:
        ValueError: an argument is out of range, or the corpus has no rollout.

    Example:
        >>> scores = np.array([1.0, 0.5, 0.0, 1.0, 1.0, 0.0])
        >>> corpus = Rollouts.from_scores(scores, 2, np.array([0, 3, 5, 6]))
        >>> content = np.arange(3, dtype=np.uint64)
        >>> select(corpus, "bis", 0.34, content).rows
        array([0])
        >>> select(corpus, np.array([0.1, 0.2, 0.3]), 0.34, content).rows
        array([2])
    """
    if rollouts.n_rollouts == 0:
        raise ValueError("the corpus has no rollout to select from")
    if len(content) != rollouts.n_rollouts:
        raise ValueError(
            f"content has {len(content)} hashes for {rollouts.n_rollouts} rollouts"
        )
    budget(1, keep_ratio)
    if isinstance(rule, str):
        name, key = rule, rule_key(rule, rollouts, alpha, keep_ratio)
    else:
        name, key = "scores", _own_key(rule, rollouts)
    if not np.all(np.isfinite(key)):
        raise ValueError(f"rule {name} gives rollouts a key that is not finite")
    in_file_order = ties == "file" and name not in _RANDOM_FILL
    if name in _NO_STEP_BUDGET and unit == "steps":
        raise ValueError(f"{name} does not keep a prefix of a ranking: no step budget")
    matched: list[int] | None = None
    if name == "step-matched-random":
        shared: dict[str, Any] = {
            "alpha": alpha,
            "per_source": per_source,
            "ties": ties,
            "seed": seed,
        }
        reference = select(rollouts, "bis", keep_ratio, content, **shared)
        matched = [cut.kept_steps for cut in reference.cuts]
        unit = "steps"

    rows, cuts = [], []
    for i, (of, group) in enumerate(_groups(rollouts, per_source)):
        lengths = rollouts.offsets[group + 1] - rollouts.offsets[group]
        if matched is not None:
            limit = matched[i]
        else:
            available = int(lengths.sum()) if unit == "steps" else len(group)
            limit = budget(available, keep_ratio)
        order = (
            np.arange(len(group)) if in_file_order else mix_hash(content[group], seed)
        )
        if name == "ccs":
            chosen = _stratified(key[group], order, limit)
        elif unit == "steps":
            ranked = np.lexsort((order, -key[group]))
            chosen = ranked[: _prefix_within(lengths[ranked], limit)]
        else:
            chosen = _best(key[group], order, limit)
        rows.append(group[chosen])
        has_cut = name != "ccs"
        cuts.append(_cut(of, limit, key[group], lengths, chosen, has_cut))
    return Selection(np.sort(np.concatenate(rows)).astype(np.int64), tuple(cuts))


def _cut(
    name: str,
    limit: int,
    key: np.ndarray,
    lengths: np.ndarray,
    chosen: np.ndarray,
    has_cut: bool,
) -> Cut:
    """Evidence for what was chosen of a group with these keys and lengths."""
    kept = key[chosen]
    value = float(kept.min()) if has_cut else None
    return Cut(
        group=name,
        available=len(key),
        available_steps=int(lengths.sum()),
        budget=limit,
        kept=len(chosen),
        kept_steps=int(lengths[chosen].sum()),
        cut_value=value,
        tied_kept=_tied_kept(key, kept, value),
    )


def _own_key(scores: np.ndarray, rollouts: Rollouts) -> np.ndarray:
    key = np.asarray(scores, np.float64)
    if key.shape != (rollouts.n_rollouts,):
        raise ValueError(
            f"scores have shape {key.shape}, not one for each of "
            f"{rollouts.n_rollouts} rollouts"
        )
    return key


def _groups(rollouts: Rollouts, per_source: bool) -> Iterator[tuple[str, np.ndarray]]:
    """(name, ascending rows) of each group that has any."""
    if not per_source:
        yield "all", np.arange(rollouts.n_rollouts)
        return
    source = rollouts.source
    # A corpus of one file per source is in this order as it is read.
    in_order = bool(np.all(source[1:] >= source[:-1]))
    by_source = None if in_order else np.argsort(source, kind="stable")
    counts = np.bincount(source, minlength=len(rollouts.source_names))
    start = 0
    for name, count in zip(rollouts.source_names, counts.tolist(), strict=True):
        rows = slice(start, start + count)
        start += count
        if count:
            group = np.arange(rows.start, rows.stop)
            yield name, group if by_source is None else by_source[rows]


def _best(key: np.ndarray, order: np.ndarray, limit: int) -> np.ndarray:
    """Positions of the ``limit`` largest keys; at the cut, of the smallest orders.

    Only the block that ties at the cut is sorted.
    """
    cut = np.partition(key, len(key) - limit)[len(key) - limit]
    above = np.flatnonzero(key > cut)
    tied = np.flatnonzero(key == cut)
    first = np.argsort(order[tied], kind="stable")[: limit - len(above)]
    return np.concatenate([above, tied[first]])


def _prefix_within(lengths: np.ndarray, limit: int) -> int:
    return max(1, int(np.searchsorted(np.cumsum(lengths), limit, side="right")))


def _tied_kept(group: np.ndarray, kept: np.ndarray, cut: float | None) -> int:
    if cut is None:
        return 0
    at_cut = int(np.count_nonzero(kept == cut))
    return at_cut if np.count_nonzero(group == cut) > at_cut else 0


def _stratified(key: np.ndarray, order: np.ndarray, limit: int) -> np.ndarray:
    """Positions of a coverage-centric coreset: equal-width strata of the key, each
    given an equal share of what is left, the smallest stratum first; random within.
    """
    span = key.max() - key.min()
    stratum = np.zeros(len(key), np.int64)
    if span > 0:
        scaled = (key - key.min()) / span * CCS_STRATA
        stratum = np.minimum(scaled.astype(np.int64), CCS_STRATA - 1)
    by_order = np.argsort(order, kind="stable")
    members = [by_order[stratum[by_order] == s] for s in np.unique(stratum)]
    members.sort(key=len)
    chosen, left = [], limit
    for i, candidates in enumerate(members):
        share = min(len(candidates), left // (len(members) - i))
        chosen.append(candidates[:share])
        left -= share
    return np.concatenate(chosen)
