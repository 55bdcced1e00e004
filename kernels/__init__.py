"""Tensors only: project, Adam, lift and update, quantise, subspace, cross-entropy."""
