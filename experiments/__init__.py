"""The `mprm` command and the runs behind every claim."""

from mprm_jax.own_packages import require

require("theory", "sim")
