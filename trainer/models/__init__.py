"""The network: LLaMA, any causal LM or classifier, fast paths, generation."""
