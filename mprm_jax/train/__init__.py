"""Training: objective, optimiser, update, loop, checkpoints, price."""
