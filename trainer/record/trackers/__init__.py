"""Trackers that a run reports to as well, each a small adapter."""
