"""Training: the loop, its state, and one step of it."""
