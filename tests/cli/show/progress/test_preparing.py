"""Bars while data are prepared: one per kind of work, gone when it is full, and none where nobody looks."""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest

from galore.cli.show.progress.preparing import preparing


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def bars(progress: Any) -> dict[str, tuple[float, float | None, str]]:
    return {each.description: (each.completed, each.total, each.fields["read"]) for each in progress._bars.tasks}


def test_into_a_file_nothing_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", file := io.StringIO())
    with preparing() as progress:
        progress(1, 2, "tokenizing")
    assert file.getvalue() == ""


def test_each_work_has_a_bar_until_it_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    with preparing() as progress:
        progress(512, 2048, "fingerprinting")
        progress(1024, 0, "reading")  # nobody knows how much there is
        assert bars(progress) == {
            "fingerprinting": (512, 2048, "512 B of 2.00 KiB"),
            "reading": (1024, None, "1.00 KiB"),
        }
        progress(2048, 2048, "fingerprinting")
        assert list(bars(progress)) == ["reading"]
        assert progress._bars.live.is_started  # type: ignore[attr-defined]
        progress(1024, 1024, "reading")
        assert not progress._bars.live.is_started  # type: ignore[attr-defined]
        progress(1, 2, "fingerprinting")  # again, of other files
        assert bars(progress) == {"fingerprinting": (1, 2, "1 B of 2 B")}


def test_an_error_leaves_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())

    def broken() -> None:
        with preparing() as progress:
            progress(1, 2, "reading")
            raise ValueError("bad")

    with pytest.raises(ValueError, match="bad"):
        broken()
    hidden, shown = (terminal.getvalue().rfind(f"\x1b[?25{end}") for end in "lh")
    assert 0 <= hidden < shown  # the cursor is back
