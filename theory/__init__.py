"""Exact theory of learning from Monte-Carlo step labels (numpy and scipy, no JAX)."""
