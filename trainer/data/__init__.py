"""Text → tokens → memory-mapped rows, in an order that is a function of (seed, step)."""
