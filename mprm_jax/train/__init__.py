"""Training: objective, optimiser, update, loop, checkpoints, price."""

from mprm_jax.own_packages import require

require("theory")
