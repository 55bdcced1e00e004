"""The console script: Ctrl-C while the verbs are still being imported is a word and an exit code of its own."""

from __future__ import annotations

import sys
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
