"""YAML text with positions: what stands where, and what is wrong there."""
