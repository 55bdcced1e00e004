"""A model's blocks in host memory: a few on the device at a time, fetched ahead, written back after the update."""
