"""What a run shows while it goes on: live lines on a terminal, plain ones elsewhere."""
