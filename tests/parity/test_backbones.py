"""All backbones against their references: logits, features, gradients, updates."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from mprm_jax.models import decoder, families, reward_head
from mprm_jax.models.layers import Compute
from mprm_jax.models.reward_head import RewardHead
from mprm_jax.models.weights import tensors
from mprm_jax.models.weights.names import canonical_name, entries
from mprm_jax.train import objective, optimizer
from tests.parity.internvl_cases import SHAPES as INTERNVL_SHAPES
from tests.parity.internvl_cases import make_internvl
from tests.parity.qwen_cases import SHAPES as QWEN_SHAPES
from tests.parity.qwen_cases import make_qwen
from tests.parity.references import NO, YES, batch_of, relative
from tests.parity.text_cases import SHAPES as TEXT_SHAPES
from tests.parity.text_cases import make_text

CASES = [("qwen", name) for name in QWEN_SHAPES]
CASES += [("internvl", name) for name in INTERNVL_SHAPES]
CASES += [("text", name) for name in TEXT_SHAPES]
MAKE = {"qwen": make_qwen, "internvl": make_internvl, "text": make_text}
FLOAT32 = Compute("float32", remat="all")


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def case(request, tmp_path_factory):
    family, name = request.param
    folder = tmp_path_factory.mktemp(family)
    made = MAKE[family](name, folder)
    config, params = tensors.load_pretrained(folder, jnp.float32)
    return made, config, params


def all_logits(config, params, tokens, images, compute):
    hidden = families.hidden_states(config, params, tokens, images, compute)
    hidden = decoder.final_norm(config.language, params["language"], hidden)
    rows = decoder.output_rows(params["language"])
    return jnp.einsum("bld,vd->blv", hidden, rows.astype(hidden.dtype))


def our_logits(made, config, params, compute):
    run = jax.jit(functools.partial(all_logits, config, compute=compute))
    return np.asarray(run(params, made.tokens, made.images), np.float64)


def test_every_real_token_has_the_logits_of_the_reference(case):
    made, config, params = case
    found = our_logits(made, config, params, FLOAT32)
    assert relative(found[made.real], made.logits()[made.real]) < 1e-5


def test_every_image_token_is_what_the_reference_sees(case):
    made, config, params = case
    if not sum(made.image_tokens):
        return
    family = families.family_of(config)
    states = family.tower_states(config, params, made.images, FLOAT32)
    found = family.project(config, params, states, FLOAT32)
    rows = [row[:count] for row, count in zip(found, made.image_tokens, strict=True)]
    with torch.no_grad():
        expected = made.see().double().numpy()
    assert relative(np.concatenate(rows), expected) < 1e-5


def our_loss(config, head, params, batch):
    hidden = families.hidden_states(
        config, params, batch.tokens_BxL, batch.images_BxPxD, FLOAT32
    )
    logits = reward_head.reward_logits(
        head, config.language, params, hidden, batch.marker_BxS
    )
    total = objective.loss_sum(logits, batch, objective.Objective())
    return total / batch.weight_BxS.sum()


def with_head(config, params):
    head = RewardHead((YES, NO), config.language.tied)
    return head, reward_head.attach(head, params)


def reference_gradients(made):
    """By canonical name; a parameter that no step reaches has none."""
    made.model.zero_grad()
    loss = made.loss()
    loss.backward()
    return loss.item(), {
        canonical_name(made.kind, name): np.asarray(weight.grad, np.float64)
        for name, weight in made.model.named_parameters()
        if weight.grad is not None
    }


def on_disk(made, config, tree):
    """Leaves of our parameters as the tensors that the reference has."""
    found = {}
    for entry in entries(made.kind, config):
        leaves = []
        for path in entry.targets:
            leaf = functools.reduce(lambda holder, name: holder[name], path, tree)
            leaves.append(
                np.asarray(leaf if entry.layer is None else leaf[entry.layer])
            )
        found[entry.name] = entry.form.write(tuple(leaves))
    return found


def test_every_gradient_of_the_loss_is_that_of_the_reference(case):
    made, config, params = case
    head, params = with_head(config, params)
    value_and_grad = jax.jit(
        jax.value_and_grad(functools.partial(our_loss, config, head))
    )
    loss, gradients = value_and_grad(params, batch_of(made))
    expected_loss, expected = reference_gradients(made)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    found = on_disk(made, config, reward_head.detach(head, gradients))
    assert expected
    largest = max(np.abs(value).max() for value in expected.values())
    for name, value in expected.items():
        # A gradient that vanishes exactly in mathematics is rounding on both sides.
        if np.abs(value).max() > 1e-6 * largest:
            assert relative(found[name], value) < 1e-4, name
        else:
            assert np.abs(found[name]).max() < 1e-5 * largest, name


def decays(name, weight):
    """What torch trainers decay: all but biases and the gains of norms."""
    return weight.ndim >= 2 and not name.endswith("bias")


def test_three_updates_of_adamw_give_the_parameters_of_torch(case):
    made, config, params = case
    head, params = with_head(config, params)
    made.model.zero_grad()
    before = {
        name: weight.detach().clone() for name, weight in made.model.named_parameters()
    }
    trained = families.trainable(params)
    frozen_names = {
        name
        for name, kept in on_disk_flags(made, config, trained).items()
        if not kept and "lm_head" not in name and "output.weight" not in name
    }
    groups = {True: [], False: []}
    for name, weight in made.model.named_parameters():
        if canonical_name(made.kind, name) not in frozen_names:
            groups[decays(name, weight)].append(weight)
    settings = optimizer.OptimizerConfig(weight_decay=0.05)
    adamw = torch.optim.AdamW(
        [
            {"params": groups[True], "weight_decay": settings.weight_decay},
            {"params": groups[False], "weight_decay": 0.0},
        ],
        lr=1e-3,
        betas=settings.betas,
        eps=settings.epsilon,
    )
    clear = {}
    for _ in range(3):
        made.model.zero_grad()
        made.loss().backward()
        for name, weight in made.model.named_parameters():
            # Torch does not even decay what no gradient reached.
            weight.grad = (
                torch.zeros_like(weight) if weight.grad is None else weight.grad
            )
            size = weight.grad.abs().numpy()
            clear.setdefault(canonical_name(made.kind, name), size > 1e-3 * size.max())
        torch.nn.utils.clip_grad_norm_(groups[True] + groups[False], settings.clip_norm)
        adamw.step()
    expected = {
        canonical_name(made.kind, name): weight.detach().numpy().copy()
        for name, weight in made.model.named_parameters()
    }
    found = on_disk(made, config, our_updates(config, head, params, made, settings))
    started = {canonical_name(made.kind, k): v.numpy() for k, v in before.items()}
    with torch.no_grad():
        for name, weight in made.model.named_parameters():
            weight.copy_(before[name])
    for name, value in expected.items():
        rows = slice(None)
        if "lm_head" in name or "output.weight" in name:
            # Torch decays the whole head; only these two rows are ours to train.
            rows = [YES, NO]
        # Adam divides a gradient by its size: where that is rounding, so is the update.
        ours, theirs, sure = found[name][rows], value[rows], clear[name][rows]
        assert relative(ours[sure], theirs[sure]) < 5e-6, name
        assert relative(ours, theirs) < 1e-4, name
        if name in frozen_names:
            np.testing.assert_array_equal(found[name], started[name])


def on_disk_flags(made, config, flags):
    """Whether each tensor on disk is trained."""
    return {
        entry.name: functools.reduce(
            lambda holder, name: holder[name], entry.targets[0], flags
        )
        for entry in entries(made.kind, config)
    }


def our_updates(config, head, params, made, settings):
    trained, frozen = optimizer.split(params, families.trainable(params))
    tool, batch = optimizer.transformation(settings), batch_of(made)

    @jax.jit
    def update(trained, moments):
        def loss(trained):
            return our_loss(config, head, optimizer.join(trained, frozen), batch)

        gradient = jax.grad(loss)(trained)
        directions, moments = tool.update(gradient, moments, trained)
        rate = jnp.float32(1e-3)
        return optimizer.apply_directions(trained, directions, rate, settings), moments

    moments = tool.init(trained)
    for _ in range(3):
        trained, moments = update(trained, moments)
    return reward_head.detach(head, optimizer.join(trained, frozen))


def test_in_bfloat16_the_error_is_at_most_twice_that_of_the_reference(case):
    made, config, params = case
    exact = made.logits()[made.real]
    made.model.bfloat16()
    try:
        with torch.no_grad():
            theirs = made.run().double().numpy()[made.real]
    finally:
        made.model.float()
    ours = our_logits(made, config, params, Compute("bfloat16"))[made.real]
    assert 1e-3 < relative(ours, exact) < 2 * relative(theirs, exact)
