"""The subspace of a layer: what kinds there are, and when one is found anew."""
