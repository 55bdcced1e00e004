"""Long sequences of a trained model: a search for rotary factors, passkeys, and the loss by position."""
