"""How one task is adapted to: one file an idea."""
