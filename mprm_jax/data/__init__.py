"""The files people have: formats, corpus index, subsets and their manifests."""

from mprm_jax.own_packages import require

require("theory")
