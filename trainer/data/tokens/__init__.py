"""Documents → tokens, kept in a verified cache."""
