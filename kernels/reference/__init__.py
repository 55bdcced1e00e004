"""The specification: what every kernel and method computes, as one reads it in the papers."""
