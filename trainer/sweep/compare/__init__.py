"""Several methods on one recipe."""
