"""Corpora whose truth is known: laws of success probabilities, draws, fits."""
