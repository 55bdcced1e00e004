"""What a key means, and what was probably meant by one that does not exist."""
