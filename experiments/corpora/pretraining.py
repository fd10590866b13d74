"""The tiny backbone's pretraining: what cells show, next tokens, and step checks.

The vision tower learns to name what every cell of a picture shows. Half of the
solutions are right in every step: their values and results are predicted. The other
half are by a policy that errs often and anywhere (rates that have nothing to do with
those of any corpus): two auxiliary rows, thrown away afterwards, learn from the known
truth whether a step follows from picture and step before it, and whether all it states
is true. Like a released backbone, the result can check a step if asked; a process
reward model has to be taught to be asked.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tokenizers import Tokenizer

from experiments.corpora.scene_text import questions, step_texts
from mprm_jax.data.prompt import render
from mprm_jax.models import layers as nn
from mprm_jax.models import tiny
from mprm_jax.models.tiny import TinyConfig, TinyModel, patchify
from mprm_jax.models.tokenizer import build_tokenizer
from mprm_jax.records.record import STEP_MARKER
from mprm_jax.train import checkpoint
from sim.scenes.grammar import (
    BENCHMARK_SOURCES,
    CELLS,
    RESULT_NAMES,
    TRAINING_SOURCES,
    Source,
    value_name,
    vocabulary,
)
from sim.scenes.pictures import draw
from sim.scenes.policy import Care
from sim.scenes.solutions import Solutions, sample_problems, solve
from theory.agreement import auroc


@dataclasses.dataclass(frozen=True)
class PretrainingConfig:
    """What is learned from, and how long.

    Attributes:
        problems: distinct pictures, spread evenly over all ten sources.
        updates: of the optimiser.
        batch: rollouts per update.
        learning_rate: at its peak, after ``warmup`` updates; falls to 0 as a cosine.
        warmup: updates.
        weight_decay: of AdamW.
        error_rate: of the erring half, for reading as for arithmetic.
        repair_rate: of the erring half.
        seed: of everything.
    """

    problems: int = 30_000
    updates: int = 6_000
    batch: int = 32
    learning_rate: float = 2e-3
    warmup: int = 200
    weight_decay: float = 0.01
    error_rate: float = 0.3
    repair_rate: float = 0.4
    seed: int = 0


class CheckedText(NamedTuple):
    """Tokenised solutions with what is known about their steps.

    Attributes:
        tokens_NxL: int32, padded with 0.
        images_NxPxD: uint8 patches.
        is_marker_NxL: where a step ends.
        valid_NxL: at markers, whether the step follows.
        true_NxL: at markers, whether all it states is true.
        predict_NxL: values and results of right solutions: their prediction is learned.
        names_NxP: token that names what each cell shows.
    """

    tokens_NxL: Any
    images_NxPxD: Any
    is_marker_NxL: Any
    valid_NxL: Any
    true_NxL: Any
    predict_NxL: Any
    names_NxP: Any


def erring(source: Source, config: PretrainingConfig) -> Source:
    """The source with the pretraining's own error rates."""
    repair = (config.repair_rate,) * 2
    return dataclasses.replace(
        source,
        misread=config.error_rate,
        slip=config.error_rate,
        repair=repair,
        check=repair,
    )


def checked_text(
    config: PretrainingConfig, tokenizer: Tokenizer, rng: np.random.Generator
) -> CheckedText:
    """The pretraining corpus: all sources, half right and half erring solutions."""
    parts = []
    sources = TRAINING_SOURCES + BENCHMARK_SOURCES
    for source in sources:
        for care in (Care(0.0), Care(1.0)):
            n = config.problems // (2 * len(sources))
            problems = sample_problems(erring(source, config), n, 0.0, rng)
            solutions = solve(problems, care, 0.1, rng)
            images = patchify(draw(source.kind, problems.values, rng))
            parts.append(_tokenise(solutions, images, tokenizer, care.factor == 0))
    length = max(part.tokens_NxL.shape[1] for part in parts)
    padded = [_of_length(part, length) for part in parts]
    return CheckedText(*map(np.concatenate, zip(*padded, strict=True)))


# Columns whose second axis is not that of the tokens.
_PER_PICTURE = ("images_NxPxD", "names_NxP")


def _of_length(text: CheckedText, length: int) -> CheckedText:
    """The same text with every row of tokens cut or padded to a length."""

    def one(name: str, column: np.ndarray) -> np.ndarray:
        if name in _PER_PICTURE:
            return column
        missing = max(0, length - column.shape[1])
        return np.pad(column[:, :length], ((0, 0), (0, missing)))

    return CheckedText(*map(one, CheckedText._fields, text))


def _tokenise(
    solutions: Solutions, images: np.ndarray, tokenizer: Tokenizer, right: bool
) -> CheckedText:
    prompts = [
        render(question, steps)
        for question, steps in zip(
            questions(solutions), step_texts(solutions), strict=True
        )
    ]
    ids = [encoding.ids for encoding in tokenizer.encode_batch(prompts)]
    tokens = np.zeros((len(ids), max(map(len, ids))), np.int32)
    for row, line in enumerate(ids):
        tokens[row, : len(line)] = line
    is_marker = tokens == tokenizer.token_to_id(STEP_MARKER)
    valid, true = np.zeros(tokens.shape, bool), np.zeros(tokens.shape, bool)
    # Neutral steps state nothing: they are as true as the result they carry on.
    correct = np.where(
        solutions.correct() == 0, solutions.result_is_right(), solutions.correct() == 1
    )
    valid[is_marker], true[is_marker] = solutions.locally_valid(), correct
    start = np.argmax(tokens == tokenizer.token_to_id("process"), axis=1)
    # The rest of a step is template: which cell is next, the word before a result.
    vocabulary_ids = tokenizer.get_vocab()
    before = [vocabulary_ids[word] for word in (*CELLS, *RESULT_NAMES, "answer")]
    stated = np.isin(np.roll(tokens, 1, axis=1), before)
    answer = stated & (np.arange(tokens.shape[1]) > start[:, None])
    source = solutions.problems.source
    names = {
        value: tokenizer.token_to_id(value_name(source.kind, value))
        for value in source.values.tolist()
    }
    return CheckedText(
        tokens,
        images,
        is_marker,
        valid,
        true,
        answer & right,
        np.vectorize(names.__getitem__)(solutions.problems.values),
    )


# Rollouts that a batch is drawn from, neighbours in length.
_NEIGHBOURS = 2_000
_TOKEN_MULTIPLE = 16


def _rows(text: CheckedText, rows: np.ndarray) -> CheckedText:
    return CheckedText(*(column[rows] for column in text))


class PretrainingState(NamedTuple):
    """Everything that an update changes."""

    params: dict
    check: dict
    optimizer: Any


# Updates between checkpoints, a multiple of those between reports.
_CHECKPOINT_EVERY = 500


class Keep(NamedTuple):
    """Where a pretraining keeps its checkpoints.

    Attributes:
        folder: of them.
        every: updates, a multiple of 100.
        say: told where the run goes on, and of damaged checkpoints passed over.
    """

    folder: Path
    every: int = _CHECKPOINT_EVERY
    say: Callable[[str], None] = lambda message: None

    def restore(
        self, state: PretrainingState, run: str
    ) -> tuple[PretrainingState, int]:
        """The state to go on from and its number of updates."""
        rest = (state.check, state.optimizer)
        found = checkpoint.restore_latest(
            self.folder, state.params, rest, run=run, report=self.say
        )
        if found is None:
            return state, 0
        self.say(f"{self.folder}: goes on after update {found.progress.update}")
        return PretrainingState(found.params, *found.training), found.progress.update

    def save(self, state: PretrainingState, number: int, of: int, run: str) -> None:
        """Keep the state after an update."""
        progress = checkpoint.Progress(number, of, run, {}, {})
        rest = (state.check, state.optimizer)
        with checkpoint.CheckpointWriter(self.folder, 1) as writer:
            writer.write(progress, state.params, rest)


# Means that are reported: what each part of the loss is about.
_LOSSES = ("names", "next_token", "follows", "true")


def _loss(
    model: TinyConfig, trained: tuple[dict, dict], batch: CheckedText
) -> tuple[jax.Array, jax.Array]:
    """The sum of the four losses, and each."""
    params, check = trained
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels
    seen = tiny.see(model, params, batch.images_NxPxD)
    names = cross_entropy(tiny.token_logits(params, seen), batch.names_NxP).mean()
    hidden = tiny.hidden_states(model, params, batch.tokens_NxL, seen)
    logits = tiny.token_logits(params, hidden[:, :-1])
    predict = batch.predict_NxL[:, 1:]
    losses = cross_entropy(logits, batch.tokens_NxL[:, 1:])
    language = jnp.sum(losses * predict) / jnp.maximum(predict.sum(), 1)
    labels = jnp.stack([batch.valid_NxL, batch.true_NxL], axis=-1)
    losses = optax.sigmoid_binary_cross_entropy(
        nn.linear(check, hidden), labels.astype(jnp.float32)
    )
    marked = batch.is_marker_NxL[..., None]
    valid, true = jnp.sum(losses * marked, axis=(0, 1)) / batch.is_marker_NxL.sum()
    return names + language + valid + true, jnp.stack([names, language, valid, true])


def pretrain(
    model: TinyConfig,
    config: PretrainingConfig,
    text: CheckedText,
    report: Callable[[int, dict[str, float]], None],
    keep: Keep | None = None,
    after: Callable[[int, PretrainingState], None] = lambda number, state: None,
) -> PretrainingState:
    """Run the pretraining; ``report`` is told the mean losses of every 100 updates.

    With ``keep``, a run that was stopped goes on from its last checkpoint, bit for bit.
    ``after`` is given the state after every update that is made.

    Raises:
        DataError: a checkpoint cannot be written, or those there are of another run.
    """
    params = tiny.init(model, jax.random.key(config.seed))
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, config.warmup, config.updates
    )
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(schedule, b2=0.98, weight_decay=config.weight_decay),
    )
    check = {"kernel": jnp.zeros((model.width, 2)), "bias": jnp.zeros(2)}
    state = PretrainingState(params, check, optimizer.init((params, check)))

    @jax.jit
    def update(
        state: PretrainingState, batch: CheckedText
    ) -> tuple[PretrainingState, Any]:
        trained = (state.params, state.check)
        loss = partial(_loss, model)
        gradient, parts = jax.grad(loss, has_aux=True)(trained, batch)
        step, moments = optimizer.update(gradient, state.optimizer, trained)
        moved: Any = optax.apply_updates(trained, step)
        return PretrainingState(moved[0], moved[1], moments), parts

    rng = np.random.default_rng(config.seed)
    lengths = (text.tokens_NxL > 0).sum(axis=1)
    by_length = np.argsort(lengths, kind="stable")
    neighbours = min(_NEIGHBOURS, len(lengths))
    total = np.zeros(len(_LOSSES))
    done, run = 0, repr((model, config))
    if keep is not None:
        state, done = keep.restore(state, run)
    for number in range(1, config.updates + 1):
        # Rollouts of like length together: fewer padded tokens, few shapes to compile.
        first = rng.integers(max(1, len(lengths) - neighbours))
        rows = by_length[first + rng.choice(neighbours, config.batch, replace=False)]
        if number <= done:
            # Drawn again, so that all later draws are those of a run never stopped.
            continue
        length = -(-int(lengths[rows].max()) // _TOKEN_MULTIPLE) * _TOKEN_MULTIPLE
        state, parts = update(state, _of_length(_rows(text, rows), length))
        total += np.asarray(parts)
        if number % 100 == 0:
            report(number, dict(zip(_LOSSES, (total / 100).tolist(), strict=True)))
            total[:] = 0
        after(number, state)
        if keep is not None and number % keep.every == 0 and number < config.updates:
            keep.save(state, number, config.updates, run)
    return state


class Pretrained(NamedTuple):
    """The tiny model at a stage of its pretraining.

    Attributes:
        updates: made so far.
        model: its shape and tokeniser.
        params: with a reward head of zeros.
        metrics: losses of the last hundred updates, and on fresh pictures the AUROC of
            the two auxiliary checks.
    """

    updates: int
    model: TinyModel
    params: dict
    metrics: dict[str, float]


def pretrain_tiny(
    config: PretrainingConfig,
    tick: Callable[[int], None],
    write: Callable[[Pretrained], None],
    stages: Sequence[int] = (),
    keep: Keep | None = None,
) -> Pretrained:
    """The tiny model, pretrained.

    Args:
        config: how.
        tick: told the number of updates made.
        write: given the model at every stage that is not the last.
        stages: updates after which it is; with ``keep`` those before the last
            checkpoint have been written by the run that was stopped.
        keep: checkpoints.
    """
    tokenizer = build_tokenizer(vocabulary())
    tokens = tokenizer.get_vocab()
    cells = tuple(tokens[cell] for cell in CELLS)
    shape = TinyConfig(tokenizer.get_vocab_size(), cells)
    rng = np.random.default_rng(config.seed)
    text = checked_text(config, tokenizer, rng)
    fresh = checked_text(dataclasses.replace(config, problems=2_000), tokenizer, rng)
    losses: dict[str, float] = {}

    def report(number: int, means: dict[str, float]) -> None:
        losses.update({f"loss: {name}": value for name, value in means.items()})
        tick(number)

    def pretrained(number: int, state: PretrainingState) -> Pretrained:
        head = jax.tree.map(jnp.zeros_like, state.params["head"])
        metrics = losses | check_quality(shape, state, fresh)
        params = state.params | {"head": head}
        return Pretrained(number, TinyModel(shape, tokenizer), params, metrics)

    def after(number: int, state: PretrainingState) -> None:
        if number in stages:
            write(pretrained(number, state))

    state = pretrain(shape, config, text, report, keep, after)
    return pretrained(config.updates, state)


def check_quality(
    shape: TinyConfig, state: PretrainingState, text: CheckedText
) -> dict[str, float]:
    """AUROC of the two auxiliary checks at the steps of a text."""

    @jax.jit
    def checks(batch: CheckedText) -> jax.Array:
        seen = tiny.see(shape, state.params, batch.images_NxPxD)
        hidden = tiny.hidden_states(shape, state.params, batch.tokens_NxL, seen)
        return nn.linear(state.check, hidden)

    parts = np.split(np.arange(len(text.tokens_NxL)), 10)
    scores = np.concatenate([np.asarray(checks(_rows(text, rows))) for rows in parts])
    scores = scores[text.is_marker_NxL]
    return {
        f"AUROC: {name}": auroc(scores[:, i], column[text.is_marker_NxL]) or 0.0
        for i, (name, column) in enumerate(
            [("follows", text.valid_NxL), ("true", text.true_NxL)]
        )
    }
