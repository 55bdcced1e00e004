"""Tokens → rows of equal length, packed, ordered, memory-mapped."""
