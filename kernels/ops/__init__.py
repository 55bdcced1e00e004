"""The public operations, and who computes them on which device."""
