"""Experiments with simulated students."""
