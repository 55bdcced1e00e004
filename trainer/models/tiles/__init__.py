"""Parts of a network that work on each token by itself, in tiles of tokens."""
