"""`galore rope-search`: options, wrong ones, and what is printed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from galore.cli.show.longcontext import searching
from galore.trainer.trained.longcontext.evolution import Candidate
from galore.trainer.trained.longcontext.ropesearch import Found


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    from galore.trainer.trained.longcontext import ropesearch

    made = list[Any]()

    def search(*arguments: Any, **named: Any) -> Found:
        made.append((arguments, named))
        arguments[2].mkdir()
        values = {"type": "longrope", "search": {"model": "m"}}
        known, usual = {"none": 3.0, "yarn": 2.0}, {"yarn": [1.0, 8.0]}
        found = Candidate((1.0, 8.0), 1.1, 2)
        return Found(found, 1.5, known, usual, [1.5], 3, False, False, (), values)

    monkeypatch.setattr(ropesearch, "search", search)
    return made


def test_a_search_is_shown(galore: Any, asked: list[Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ["--length", "512", "--budget", "2m", "--start-tokens", "4,0", "--population", "8"]
    shown = galore("rope-search", "m", "demo", "--output-dir", str(out), *options)
    said = " ".join(shown.stdout.split())
    for part in (
        "none 3.0000 20.086",
        "searched 1.5000 4.482",
        "attention × 1.1, the first 2 tokens left alone",
        "rope.png",
    ):
        assert part in said
    assert "call again to go on" in said
    request = asked[0][0][3]
    assert (request.length, request.budget, request.start_tokens, request.size.mutations) == (512, 120.0, (0, 4), 4)
    assert (out / "rope.png").read_bytes().startswith(b"\x89PNG")


def test_json(galore: Any, asked: list[Any], tmp_path: Path) -> None:
    shown = galore("rope-search", "m", "demo", "--output-dir", str(tmp_path / "out"), "--json")
    assert json.loads(shown.stdout)["type"] == "longrope"
    assert asked[0][0][3].length == 128


@pytest.mark.parametrize(
    ("option", "value"),
    [("--budget", "soon"), ("--budget", "0s"), ("--start-tokens", "a"), ("--start-tokens", "-1"), ("--budget", "1d")],
)
def test_wrong_options_are_one_error(galore: Any, option: str, value: str) -> None:
    shown = galore("rope-search", "m", "demo", f"{option}={value}")
    assert shown.exit_code == 2
    assert f"error: {option}: '{value}'" in shown.stderr


def test_progress_is_a_line_now_and_then(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sys, "stderr", SimpleNamespace(isatty=lambda: False, write=sys.stderr.write, flush=lambda: None)
    )
    with searching() as tell:
        for number in range(3):
            tell(0, 5, number, 2.0)
