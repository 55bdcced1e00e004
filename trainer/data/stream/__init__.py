"""Rows of documents that do not fit the disk: read while training."""
