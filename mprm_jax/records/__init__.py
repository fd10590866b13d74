"""What one rollout is in every format, and what can be wrong with data."""

from mprm_jax.own_packages import require

require("theory")
