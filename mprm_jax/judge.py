"""How good a model is while it is trained: one look at labelled prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mprm_jax.data.loader import Source
from mprm_jax.evaluate import Scoring, score_prompts
from mprm_jax.models.model import Model, Params
from mprm_jax.records.problems import DataError
from theory.agreement import auroc

AUROC, LOSS = "eval_auroc", "eval_loss"

# A score of exactly 0 or 1 in float32 would make one step's loss infinite.
_CLIP = 1e-7


@dataclass(frozen=True, eq=False)
class Judge:
    """Scores labelled prompts.

    Attributes:
        model: whose parameters are looked at.
        examples: the prompts.
        labels: of each prompt's steps: 1 correct, -1 wrong, 0 not known.
        batch_size: prompts scored at a time.

    Raises:
        DataError: the labels are all of one kind, so that no score ranks them.
    """

    model: Model
    examples: Source
    labels: Sequence[np.ndarray]
    batch_size: int

    def __post_init__(self) -> None:
        kinds = {int(label) for of in self.labels for label in np.unique(of)} - {0}
        if kinds != {1, -1}:
            raise DataError(
                "the steps to evaluate on are all right, or all wrong: no score can "
                "tell them apart"
            )

    def __call__(self, params: Params) -> dict[str, float]:
        """AUROC over all steps, and their mean cross-entropy, nats.

        Steps that were cut off have no score and do not count.
        """
        how = Scoring(self.batch_size)
        found = score_prompts(self.model, params, self.examples, how)
        pairs = zip(self.labels, found, strict=True)
        label = np.concatenate([of[: len(scores)] for of, scores in pairs])
        scores, known = np.concatenate(found), label != 0
        scores, correct = scores[known], label[known] > 0
        chance = np.clip(np.where(correct, scores, 1 - scores), _CLIP, None)
        told = auroc(scores, correct)
        return {
            AUROC: float("nan") if told is None else told,
            LOSS: float(-np.log(chance).mean()),
        }
