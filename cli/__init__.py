"""Typer verbs and what the terminal shows; no torch before a verb runs."""
