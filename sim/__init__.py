"""Simulators whose truth is known."""
