"""Measurements of speed and memory; results go into LOG.md."""
