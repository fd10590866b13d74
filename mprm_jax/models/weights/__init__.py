"""Released weights in, trained weights out: safetensors and config.json."""
