"""Reading, selecting, training and evaluating multimodal process reward models."""
