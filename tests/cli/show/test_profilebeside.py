"""What `profile-memory` shares with its comparisons: files that are whole and told of, words on a terminal only."""

from __future__ import annotations

from pathlib import Path

import pytest

from galore.cli.show.profilebeside import told_on_stderr, write_file


def test_a_file_is_whole_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_file(tmp_path / "a.png", b"12")
    assert (tmp_path / "a.png").read_bytes() == b"12"
    assert [each.name for each in tmp_path.iterdir()] == ["a.png"]
    assert capsys.readouterr().err == f"wrote {tmp_path}/a.png\n"


def test_nothing_is_told_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with told_on_stderr() as tell:
        tell("tracing")
    assert capsys.readouterr() == ("", "")
