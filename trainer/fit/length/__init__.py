"""How long sequences may be on a card."""
