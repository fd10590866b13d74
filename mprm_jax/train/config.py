"""Every setting of a training run, and its range. Imports no JAX: these records are
the options of the commands that train, and their docstrings the help.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from theory.paper import TRAINING

Precision = Literal["bfloat16", "float32"]
LossKind = Literal["hard", "soft", "beta-binomial", "masked"]


def check_positive(name: str, value: float) -> None:
    """Refuse what is not finite and positive.

    Raises:
        ValueError: naming it.
    """
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be finite and positive, not {value}")


@dataclass(frozen=True)
class Objective:
    """Which loss.

    Attributes:
        labels: hard y = 1[K/N > threshold] and soft y = K/N with two-way cross-entropy,
            or beta-binomial: the likelihood of the counts (K, N), which also learns how
            sure the model is. masked: y = 1[K > 0], but positives with K/N < 1/4 of
            rollouts that have negatives have no loss: they are likelier wrong.
        label_threshold: Threshold of hard labels, in [0, 1); 0 in the paper.

    Raises:
        ValueError: the threshold is outside [0, 1), or of labels that have none.
    """

    labels: LossKind = "hard"
    label_threshold: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.label_threshold < 1:
            raise ValueError(
                f"label_threshold must lie in [0, 1), not {self.label_threshold}"
            )
        if self.labels != "hard" and self.label_threshold:
            raise ValueError(f"labels {self.labels} have no label_threshold")


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with decoupled weight decay and clipping; defaults are Table 7's.

    Attributes:
        kind: adamw, or adafactor (Shazeer & Stern 2018), which keeps a mean per row
            and one per column of each matrix instead of two numbers per parameter.
        betas: AdamW: of the two moments, each in [0, 1).
        epsilon: AdamW: added to the root of the second moment, > 0.
        first_moment: AdamW: precision of the first moment. In bfloat16 it stops
            up to 6 % short of a constant gradient, because 1 - beta1 = 0.1 of what is
            missing rounds away; the second, with 0.001, would not move: it stays
            float32.
        weight_decay: Lambda of w <- w - lr (u + lambda w), >= 0; biases and gains of
            norms are spared.
        clip_norm: The global norm of the gradient is brought down to this, > 0.
        head_multiplier: Learning rate of the reward head over that of all else, > 0.

    Raises:
        ValueError: a value is out of its range.
    """

    kind: Literal["adamw", "adafactor"] = "adamw"
    betas: tuple[float, float] = TRAINING.betas
    epsilon: float = TRAINING.epsilon
    first_moment: Literal["float32", "bfloat16"] = "float32"
    weight_decay: float = TRAINING.weight_decay
    clip_norm: float = TRAINING.clip_norm
    head_multiplier: float = 1.0

    def __post_init__(self) -> None:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must lie in [0, 1), not {self.betas}")
        for name in ("epsilon", "clip_norm", "head_multiplier"):
            check_positive(name, getattr(self, name))
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(
                f"weight_decay must be finite and at least 0, not {self.weight_decay}"
            )
        if self.kind == "adafactor" and self.first_moment != "float32":
            raise ValueError("adafactor has no first_moment")


@dataclass(frozen=True)
class TrainConfig:
    """How to train; every default is the paper's (Table 7).

    Attributes:
        objective: The loss.
        optimizer: What is compiled into the update.
        learning_rate: Peak of the schedule.
        accumulate: Micro-batches of an update, a divisor of the batch size; they change
            memory and rounding, nothing else.
        pack: Tokens of a row that holds several rollouts one after another, of which
            none sees another; an update has as many micro-batches of one row per part
            of the mesh as it takes. 0: a row is one rollout, padded to those beside it.
        seed: Of the order of the rollouts.
        threads: Threads that read rollouts and images ahead; 0 for rollouts in memory.
        checkpoint_every: Updates between checkpoints; 0: only the last.
        keep_checkpoints: How many of them stay.
        tensorboard: Write events for TensorBoard beside metrics.jsonl.
        tracker: Tell the metrics to a tracker too; its package must be installed.
        profile: Write a jax.profiler trace of three updates to profile/.

    Raises:
        ValueError: a number is out of range.
    """

    objective: Objective = field(default_factory=Objective)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    learning_rate: float = TRAINING.learning_rate
    accumulate: int = 1
    pack: int = 0
    seed: int = 0
    threads: int = 0
    checkpoint_every: int = 0
    keep_checkpoints: int = 3
    tensorboard: bool = False
    tracker: Literal["none", "wandb", "trackio"] = "none"
    profile: bool = False

    def __post_init__(self) -> None:
        least = {
            "accumulate": 1,
            "pack": 0,
            "seed": 0,
            "threads": 0,
            "checkpoint_every": 0,
            "keep_checkpoints": 1,
        }
        for name, bound in least.items():
            if (value := getattr(self, name)) < bound:
                raise ValueError(f"{name} must be at least {bound}, not {value}")
        check_positive("learning_rate", self.learning_rate)
        if self.pack and self.accumulate > 1:
            raise ValueError("packed rows make their own micro-batches: no accumulate")
