"""Bytes of data files: compressed, of another encoding, as JSON arrays, as delimited tables."""
