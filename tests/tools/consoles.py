"""A console for runs in tests: it shows nothing, and keeps what it was told."""

from __future__ import annotations

from typing import Any


class Quiet:
    """See `galore.trainer.record.metrics.Console`. `rows` are those of steps and evaluations."""

    def __init__(self) -> None:
        self.header: dict[str, Any] = {}
        self.messages: list[str] = []
        self.rows: list[Any] = []

    def start(self, header: dict[str, Any], total_steps: int) -> None:
        self.header = header

    def step(self, row: Any) -> None:
        self.rows.append(row)

    def evaluation(self, row: Any) -> None:
        self.rows.append(row)

    def message(self, text: str) -> None:
        self.messages.append(text)

    def notice(self, text: str) -> None:
        self.messages.append(text)

    def close(self) -> None: ...
