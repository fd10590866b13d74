"""Parity with the reference implementations; needs the group parity."""
