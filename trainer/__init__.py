"""Recipe → run → loop → checkpoint, metrics, report."""
