"""Where selection pays: many simulated worlds, and the advisor fitted to them."""
