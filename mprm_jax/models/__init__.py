"""Process reward models: pure functions over pytrees of parameters."""

from mprm_jax.own_packages import require

require("theory")
