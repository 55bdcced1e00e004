"""The sections of a recipe: every key with its type, range, default and meaning."""
