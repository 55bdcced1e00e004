"""The console script: Ctrl-C while the verbs are still being imported is a word and an exit code of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import pytest

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


def test_standard_streams_that_are_closed_lead_nowhere(tmp_path: Path) -> None:
    """A file that is opened later must not take the number of one, which libraries print to."""
    script = "import sys; from galore.cli import entry; entry.open_streams(); print('told'); sys.exit(open('f', 'w').fileno() != 3)"
    closed = [sys.executable, "-c", script]
    ended = subprocess.run(["sh", "-c", '"$@" <&- >&- 2>&-', "sh", *closed], cwd=tmp_path, check=False)
    assert ended.returncode == 0
