"""YAML, `extends:` and overrides → one frozen Recipe, or all errors at once."""
