"""How numbers are kept in fewer bits: layouts, block-wise codes, moments, rounding."""
