import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mprm_jax.models import decoder
from mprm_jax.models.decoder import DecoderConfig
from mprm_jax.models.layers import Compute
from mprm_jax.models.rope import Rope, angles, frequencies, rotate, rotation
from tests.mprm_jax.quick import quick_compilation as quick_compilation

CONFIG = DecoderConfig(
    vocabulary=50,
    width=24,
    layers=2,
    heads=4,
    kv_heads=2,
    head_width=6,
    hidden=20,
    norm_eps=1e-6,
    rope=Rope(1e4),
    qkv_bias=True,
    tied=False,
)
PLAIN = Compute("float32", remat="none")
POLICIES = "none", "dots", "all"


@pytest.fixture(scope="module")
def params():
    made = decoder.init(CONFIG, jax.random.key(0))
    return jax.tree.map(lambda leaf: 5 * leaf if leaf.ndim >= 2 else leaf, made)


def language_logits(config, params, tokens, compute):
    """Next-token logits of a text alone [B, L, V]; training never makes this array."""
    embedded = decoder.embed(params, tokens, compute)
    positions = decoder.text_positions(tokens)
    hidden = decoder.decode(config, params, embedded, positions, compute)
    hidden = decoder.final_norm(config, params, hidden)
    rows = decoder.output_rows(params).astype(hidden.dtype)
    return jnp.einsum("bld,vd->blv", hidden, rows).astype(jnp.float32)


@functools.partial(jax.jit, static_argnames=("compute", "config"))
def logits(params, tokens, compute=PLAIN, config=CONFIG):
    return language_logits(config, params, tokens, compute)


def test_a_token_has_exactly_no_influence_on_what_stands_before_it(params):
    tokens = jnp.arange(8)[None] + 3
    embedded = decoder.embed(params, tokens, PLAIN)

    def last_but_two(embedded):
        positions = decoder.text_positions(tokens)
        return decoder.decode(CONFIG, params, embedded, positions, PLAIN)[0, 5].sum()

    gradient = jax.jit(jax.grad(last_but_two))(embedded)[0]
    assert not gradient[6:].any()
    assert (jnp.abs(gradient[:6]).max(axis=1) > 1e-4).all()


def test_padding_at_the_end_changes_no_real_token(params):
    tokens = np.array([[7, 8, 9, 10]])
    padded = np.pad(tokens, ((0, 0), (0, 5)))
    np.testing.assert_allclose(
        logits(params, padded)[:, :4], logits(params, tokens), atol=1e-5
    )


def test_recomputing_layers_changes_nothing(params):
    tokens = np.arange(6)[None]

    def loss(params, compute):
        return jnp.square(logits(params, tokens, compute)).sum()

    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    plain, *others = (gradient(params, Compute("float32", r)) for r in POLICIES)
    for again in others:
        for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(again), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_a_policy_keeps_what_it_says_of_each_layer_and_token(params):
    """Numbers of a token that JAX keeps for the gradient of the parameters."""
    embedded, tokens = jnp.zeros((3, 11, 24)), jnp.zeros((3, 11))
    positions = decoder.text_positions(tokens)

    def kept(remat):
        def backward(params):
            compute = Compute("float32", remat)
            return jax.vjp(
                lambda p: decoder.decode(CONFIG, p, embedded, positions, compute),
                params,
            )[1]

        leaves = jax.tree.leaves(jax.eval_shape(backward, params))
        of_tokens = [x for x in leaves if x.shape[:3] == (CONFIG.layers, 3, 11)]
        return sum(leaf.size for leaf in of_tokens) / (CONFIG.layers * 3 * 11)

    none, dots, everything = map(kept, POLICIES)
    queries, keys = CONFIG.heads * 6, CONFIG.kv_heads * 6
    assert everything == CONFIG.width
    assert dots == 2 * CONFIG.width + queries + 2 * keys + 2 * CONFIG.hidden
    assert none > 1.5 * dots


# Documents of five, two, one and one, and of three and one tokens, in rows of nine.
PACKED = np.array(
    [
        [[0, 1, 2, 3, 4], [5, 6, -1, -1, -1], [7] + [-1] * 4, [8] + [-1] * 4, [-1] * 5],
        [[0, 1, 2, -1, -1], [3, -1, -1, -1, -1], *[[-1] * 5] * 3],
    ]
)
# (row, where its tokens stand) of each document.
DOCUMENTS = [
    (row, at[at >= 0]) for row in (0, 1) for at in PACKED[row] if at.max() >= 0
]


def packed_hidden(params, embedded):
    positions = decoder.text_positions(embedded[..., 0])
    positions = decoder.restart(positions, jnp.asarray(PACKED))
    return decoder.decode(
        CONFIG, params, embedded, positions, PLAIN, jnp.asarray(PACKED)
    )


def test_a_packed_document_is_what_it_is_alone(params):
    embedded = jax.random.normal(jax.random.key(1), (2, 9, 24))
    together = jax.jit(packed_hidden)(params, embedded)

    @jax.jit
    def alone(padded):
        positions = decoder.text_positions(padded[..., 0])
        return decoder.decode(CONFIG, params, padded, positions, PLAIN)

    for row, at in DOCUMENTS:
        padded = jnp.pad(embedded[row, at], ((0, 5 - len(at)), (0, 0)))
        expected = alone(padded[None])[0, : len(at)]
        np.testing.assert_allclose(together[row, at], expected, atol=1e-5)


def test_no_document_has_any_influence_on_another(params):
    embedded = jax.random.normal(jax.random.key(1), (2, 9, 24))

    @jax.jit
    @jax.grad
    def influence(embedded, weight):
        return (weight * packed_hidden(params, embedded)[..., 0]).sum()

    for row, at in DOCUMENTS:
        weight = np.zeros((2, 9), np.float32)
        weight[row, at] = 1
        found = np.asarray(influence(embedded, weight)).any(axis=-1)
        np.testing.assert_array_equal(found, weight.astype(bool))


def test_positions_count_anew_in_every_document():
    positions = decoder.text_positions(jnp.zeros((2, 9)))
    assert (
        decoder.restart(3 * positions, jnp.asarray(PACKED)).tolist()
        == [[[0, 3, 6, 9, 12, 0, 3, 0, 0], [0, 3, 6, 0, 3, 6, 9, 12, 15]]] * 3
    )


def test_it_is_the_attention_of_its_definition(params):
    """One layer in numpy float64, written from the formulas head by head."""
    config = dataclasses.replace(CONFIG, layers=1)
    layer = jax.tree.map(lambda leaf: np.asarray(leaf[0], float), params["layers"])
    one = params | {"layers": jax.tree.map(lambda leaf: leaf[:1], params["layers"])}
    tokens = np.array([3, 1, 4, 1, 5])
    x = np.asarray(params["embedding"], float)[tokens]

    def norm(x, weight):
        return weight * x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)

    def project(name, x):
        return x @ layer[name]["kernel"] + layer[name].get("bias", 0.0)

    def turned(x, position):
        rate = 1e4 ** (-np.arange(3) / 3)
        pairs = (x[:3] + 1j * x[3:]) * np.exp(1j * position * rate)
        return np.concatenate([pairs.real, pairs.imag])

    y = norm(x, layer["attention_norm"])
    query, key, value = (project(n, y) for n in ("query", "key", "value"))
    mixed = np.zeros((5, 24))
    for head in range(4):
        own, shared = slice(6 * head, 6 * head + 6), slice(6 * (head // 2), None)
        for i in range(5):
            q = turned(query[i, own], i)
            k = [turned(key[j, shared][:6], j) for j in range(i + 1)]
            weight = np.exp(np.array(k) @ q / np.sqrt(6))
            mixed[i, own] = weight / weight.sum() @ value[: i + 1, shared][:, :6]
    x = x + project("output", mixed)
    y = norm(x, layer["mlp_norm"])
    gate = project("gate", y)
    x = x + project("down", gate / (1 + np.exp(-gate)) * project("up", y))
    expected = norm(x, 1.0) @ np.asarray(params["lm_head"], float).T
    found = logits(one, tokens[None], config=config)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_each_section_of_m_rope_turns_with_its_own_axis():
    rope = Rope(100.0, sections=(1, 2, 1))
    positions = jnp.asarray([[[2]], [[30]], [[500]]])
    rate = 100.0 ** (-np.arange(4) / 4)
    expected = rate * [2, 30, 30, 500]
    np.testing.assert_allclose(angles(rope, 8, positions)[0, 0], expected, rtol=1e-6)


def test_sections_change_nothing_for_text():
    positions = jnp.broadcast_to(jnp.arange(5), (3, 1, 5))
    plain = angles(Rope(1e4), 8, positions)
    np.testing.assert_array_equal(
        angles(Rope(1e4, sections=(1, 1, 2)), 8, positions), plain
    )


def test_rotation_keeps_lengths_and_only_differences_matter():
    x, y = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 8))

    def turn(vector, position):
        at = angles(Rope(1e4), 8, jnp.full((3, 1, 1), position))
        return rotate(vector, rotation(at))

    length = float(jnp.linalg.norm(x))
    assert float(jnp.linalg.norm(turn(x, 91))) == pytest.approx(length, rel=1e-6)
    near = float((turn(x, 7) * turn(y, 3)).sum())
    far = float((turn(x, 1007) * turn(y, 1003)).sum())
    assert near == pytest.approx(far, abs=1e-4)
    assert near != pytest.approx(float((x * y).sum()), abs=1e-2)


def test_llama3_slows_low_frequencies_and_leaves_high_ones():
    rope = Rope(5e5, kind="llama3", factor=8.0, low=1.0, high=4.0, context=8192)
    plain, slowed = frequencies(Rope(5e5), 128), frequencies(rope, 128)
    turns = 8192 * plain / (2 * np.pi)
    np.testing.assert_allclose(slowed[turns > 4], plain[turns > 4])
    np.testing.assert_allclose(slowed[turns < 1], plain[turns < 1] / 8, rtol=1e-6)
    between = (turns > 1) & (turns < 4)
    assert between.any()
    assert ((slowed < plain) & (slowed > plain / 8))[between].all()
