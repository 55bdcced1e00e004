"""Blocks of a model that are alike: a few of them traced for all."""
