"""Process reward models: pure functions over pytrees of parameters."""
