"""The process reward head: a few rows, read at the step markers only."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from mprm_jax.models import decoder
from mprm_jax.models.families import BackboneConfig, with_language
from mprm_jax.models.layers import Params
from mprm_jax.records.problems import DataError

# Rows of the language-model head that become Yes and No, in this order.
ANSWERS = ("Yes", "No")
# Beside exported weights, where their own head does not say it all.
ROWS_FILE = "reward_head.safetensors"


@dataclasses.dataclass(frozen=True)
class RewardHead:
    """Where the rows of Yes and No come from.

    Attributes:
        tokens: ids of the reward tokens in the language-model head; None for new rows.
        tied: Yes and No are rows of the input embedding, trained with it.
    """

    tokens: tuple[int, int] | None
    tied: bool

    @property
    def own_answers(self) -> bool:
        """Yes and No are parameters of the head, not rows of the embedding."""
        return self.tokens is None or not self.tied


def attach(head: RewardHead, params: Params) -> Params:
    """The parameters with a head: rows copied from the language model, or new ones.

    New rows begin at zero, so that every step is scored 1/2 and the first updates fit
    the head to the hidden states, not the hidden states to a random head. So does the
    row of the log concentration: concentration 1 everywhere.
    """
    language = params["language"]
    width = language["embedding"].shape[1]
    made: Params = {"concentration": jnp.zeros((1, width), jnp.float32)}
    if head.tokens is None:
        made["answers"] = jnp.zeros((2, width), jnp.float32)
    elif head.own_answers:
        rows = decoder.output_rows(language)
        made["answers"] = jnp.stack([rows[token] for token in head.tokens])
    return params | {"head": made}


def detach(head: RewardHead, params: Params) -> Params:
    """The parameters without the head, its rows back where they came from."""
    language = params["language"]
    if head.own_answers and head.tokens is not None:
        rows = jnp.asarray(head.tokens)
        answers, lm_head = params["head"]["answers"], language["lm_head"]
        # A frozen head may be stored in fewer bits than its trained rows need.
        lm_head = lm_head.astype(jnp.promote_types(lm_head.dtype, answers.dtype))
        language = language | {"lm_head": lm_head.at[rows].set(answers)}
    rest = {name: part for name, part in params.items() if name != "head"}
    return rest | {"language": language}


def answer_rows(head: RewardHead, params: Params) -> jax.Array:
    """The rows of Yes and No [2, D]."""
    if head.own_answers:
        return params["head"]["answers"]
    return params["language"]["embedding"][jnp.asarray(head.tokens)]


def own_rows_file(
    head: RewardHead, params: Params, answers: tuple[int, int] | None
) -> dict[str, bytes]:
    """What no language-model head can hold, as a file by name; {} if there is nothing.

    Args:
        head: of the model.
        params: of the model.
        answers: ids of the tokens that a reader takes for Yes and No, if any.
    """
    kept: dict[str, np.ndarray] = {}
    if head.tokens is None or head.tokens != answers:
        kept["answers"] = np.asarray(answer_rows(head, params), np.float32)
    concentration = np.asarray(params["head"]["concentration"], np.float32)
    if concentration.any():
        kept["concentration"] = concentration
    return {ROWS_FILE: save(kept)} if kept else {}


def read_own_rows(directory: Path, width: int) -> Params:
    """The rows that ``own_rows_file`` kept; {} where it kept none.

    Raises:
        DataError: the file is damaged or of another model.
    """
    path = directory / ROWS_FILE
    if not path.is_file():
        return {}
    try:
        rows = load_file(path)
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path}: no whole safetensors file ({error})") from error
    wanted = {"answers": (2, width), "concentration": (1, width)}
    for name, array in rows.items():
        if wanted.get(name) != array.shape or array.dtype.kind != "f":
            raise DataError(
                f"{path}: {name} {list(array.shape)} is no row of a reward head of "
                f"width {width}"
            )
    return {name: jnp.asarray(array, jnp.float32) for name, array in rows.items()}


def marker_states(
    config: decoder.DecoderConfig,
    params: Params,
    hidden_BxLxD: jax.Array,
    marker_BxS: jax.Array,
) -> jax.Array:
    """What the head reads: the final norm of the states at every marker [B, S, D]."""
    gathered_BxSxD = decoder.gather_positions(hidden_BxLxD, marker_BxS)
    return decoder.final_norm(config, params["language"], gathered_BxSxD)


def reward_logits(
    head: RewardHead,
    config: decoder.DecoderConfig,
    params: Params,
    hidden_BxLxD: jax.Array,
    marker_BxS: jax.Array,
) -> jax.Array:
    """Yes, No and log concentration at every marker [B, S, 3], float32.

    The states are gathered first: the final norm and three rows are all that is
    computed, never logits over the vocabulary.
    """
    states_BxSxD = marker_states(config, params, hidden_BxLxD, marker_BxS)
    answers_2xD = answer_rows(head, params)
    rows_3xD = jnp.concatenate([answers_2xD, params["head"]["concentration"]])
    # A difference of two logits is what is scored: it deserves every bit.
    return jnp.einsum(
        "bsd,rd->bsr",
        states_BxSxD.astype(jnp.float32),
        rows_3xD.astype(jnp.float32),
        precision=jax.lax.Precision.HIGHEST,
    )


def grow_vocabulary(
    config: BackboneConfig, params: Params, size: int
) -> tuple[BackboneConfig, Params]:
    """Room for ``size`` tokens: new rows are the mean of the old ones.

    A no-op where the embedding already has the rows, as Qwen2.5-VL's padded one does.
    """
    extra = size - config.language.vocabulary
    if extra <= 0:
        return config, params

    def grown(rows: jax.Array) -> jax.Array:
        mean = jnp.mean(rows.astype(jnp.float32), axis=0, keepdims=True)
        new = jnp.broadcast_to(mean.astype(rows.dtype), (extra, rows.shape[1]))
        return jnp.concatenate([rows, new])

    language = params["language"]
    names = [name for name in ("embedding", "lm_head") if name in language]
    # Of some that are not read there is nothing to grow.
    rows = {name: jax.tree.map(grown, language[name]) for name in names}
    config = with_language(config, vocabulary=size)
    return config, params | {"language": language | rows}
