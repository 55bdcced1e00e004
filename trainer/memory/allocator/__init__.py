"""PyTorch's caching allocator as numbered rules: what it reserves for a sequence of requests."""
