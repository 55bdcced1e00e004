"""What operations take beside their results, as PyTorch's source has it."""
