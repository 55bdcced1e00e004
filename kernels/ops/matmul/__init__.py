"""Products of a linear layer in 8 bits: forward and input gradient, the weight's gradient left as it is."""
