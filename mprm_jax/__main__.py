"""``python -m mprm_jax``, and what the installed command ``mprm`` starts."""

import sys

from mprm_jax.own_packages import take_precedence

# On import, not in main(): processes that are spawned import this module alone.
take_precedence()


def main() -> int:
    """Run the command line; returns its exit status."""
    from experiments.cli import main

    return main()


if __name__ == "__main__":
    sys.exit(main())
