"""What one training step needs on a card: traced on meta tensors, replayed through an allocator."""
