"""Tensors that lie in parts on several ranks, and files that do."""
