"""Small students of step labels: features, truth, one-pass training, evaluation."""
