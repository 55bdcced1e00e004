"""Rotary positions beyond the length a model was trained at: scaled in its configuration, and set in a model."""
