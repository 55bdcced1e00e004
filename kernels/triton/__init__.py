"""The kernels for NVIDIA cards: plans of launches as data, tables of tiles, tuning, self-test."""
