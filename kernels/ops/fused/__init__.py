"""Pieces of a forward between its products, each read and written once: RMSNorm, SwiGLU, rotary positions, the loss."""
