"""Products in 8 bits: in which layers, in which format, and why not in others."""
