"""What stops an emulation."""

from __future__ import annotations


class Fault(Exception):  # noqa: N818 - reads as what it is
    """The program did something that hardware leaves undefined, or that the emulator does not know."""
