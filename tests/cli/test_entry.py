"""The console script: Ctrl-C while the verbs are still being imported is a word and an exit code of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import pytest

from galore.cli import entry
from galore.cli.entry import main


def test_ctrl_c_before_a_verb_runs(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "galore.cli.main", SimpleNamespace(main=interrupted))
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 130
    assert caught.value.__suppress_context__
    assert capfd.readouterr() == ("", "stopped: interrupted\n")


def test_an_exit_of_a_verb_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> NoReturn:
        raise SystemExit(2)

    monkeypatch.setitem(sys.modules, "galore.cli.main", SimpleNamespace(main=refused))
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"PYTHONIOENCODING": "ascii"}, b"1-2 +/- 3 -> ? \xff\n"),
        ({"PYTHONIOENCODING": "latin-1"}, b"1-2 \xb1 3 -> ? \xff\n"),
        ({"PYTHONIOENCODING": "utf-8"}, "1–2 ± 3 → 日 ".encode() + b"\xff\n"),
        ({"PYTHONIOENCODING": "ascii:replace"}, b"1?2 ? 3 ? ? ?\n"),
        ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, b"1-2 +/- 3 -> ? \xff\n"),
    ],
)
def test_letters_that_an_encoding_lacks_are_written_in_ascii(environment: dict[str, str], told: bytes) -> None:
    script = r"from galore.cli import entry; entry.write_any_letter(); print('1–2 ± 3 → 日', '\udcff')"
    ended = subprocess.run(
        [sys.executable, "-X", "utf8=0", "-c", script.encode("ascii", "backslashreplace").decode()],
        env={**os.environ, **environment},
        capture_output=True,
        check=False,
    )
    assert (ended.stdout, ended.stderr) == (told, b"")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_verb_ends_well_whatever_the_encoding(encoding: str) -> None:
    table = (
        "import galore.cli.verbs.bench, galore.cli.entry as e, sys; sys.argv = ['galore', 'recipes', 'list']; e.main()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", table],
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert b"llama-60m" in ended.stdout


def test_standard_streams_that_are_closed_lead_nowhere(tmp_path: Path) -> None:
    """A file that is opened later must not take the number of one, which libraries print to."""
    script = "import sys; from galore.cli import entry; entry.open_streams(); print('told'); sys.exit(open('f', 'w').fileno() != 3)"
    closed = [sys.executable, "-c", script]
    ended = subprocess.run(["sh", "-c", '"$@" <&- >&- 2>&-', "sh", *closed], cwd=tmp_path, check=False)
    assert ended.returncode == 0


@pytest.mark.parametrize("columns", ["0", "00", "1", "19", "10000", "9" * 20, "9" * 5000, "-5", "²", "wide", " 80", ""])
def test_columns_and_lines_of_no_screen_are_forgotten(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = {"1": "0", "19": "-1"}.get(columns, columns)
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("LINES", lines)
    entry.forget_impossible_screens()
    assert not {"COLUMNS", "LINES"} & os.environ.keys()


@pytest.mark.parametrize(("columns", "lines"), [("20", "1"), ("80", "24"), ("080", "09"), ("9999", "9999")])
def test_columns_and_lines_of_a_screen_are_kept(columns: str, lines: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("LINES", lines)
    entry.forget_impossible_screens()
    assert (os.environ["COLUMNS"], os.environ["LINES"]) == (columns, lines)


@pytest.mark.parametrize("columns", ["0", "²"])
def test_a_message_is_told_whatever_columns_says(columns: str) -> None:
    script = "import galore.cli.entry as e, sys; sys.argv = ['galore', 'train', 'nope']; e.main()"
    environment = {**os.environ, "COLUMNS": columns}
    ended = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, check=False)
    assert ended.returncode == 2
    assert b"error: nope" in ended.stderr
