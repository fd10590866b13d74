"""What of a layer is kept for the backward pass. Imports no JAX: the commands that
train name it among their options.
"""

from __future__ import annotations

from typing import Literal

# none: nothing is computed again, everything is kept. dots: what the linear layers
# give is kept; norms, activations, rotations and attention are computed again. all:
# every layer is computed again from what enters it.
Remat = Literal["none", "dots", "all"]
