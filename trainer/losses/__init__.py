"""Losses beside the cross-entropy: what they see of a forward pass, and a file for each."""
