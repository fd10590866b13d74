"""Where images meet text: image tokens replaced by what the vision tower saw."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mprm_jax.models.decoder import gather_positions


def insert_features(
    embedded_BxLxD: jax.Array, is_image_BxL: jax.Array, features_BxUxD: jax.Array
) -> jax.Array:
    """The embedding with its i-th image token replaced by the i-th feature."""
    index = jnp.maximum(jnp.cumsum(is_image_BxL, axis=1) - 1, 0)
    rows = gather_positions(features_BxUxD, index)
    rows = rows.astype(embedded_BxLxD.dtype)
    return jnp.where(is_image_BxL[..., None], rows, embedded_BxLxD)
