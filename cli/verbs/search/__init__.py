"""Verbs that search for values of a recipe."""
