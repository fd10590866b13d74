"""Corpora and worlds on disk, what judges and corpus models say of them."""
