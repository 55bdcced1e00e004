"""Tensors only: project, Adam, lift and update, quantize, subspace, cross-entropy."""
