"""What `--longest` prints: the length, what is beyond it, settings, positions, and that nothing fits."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from galore.cli.show.longest import longest_lines, show_longest
from galore.trainer.fit.hostmemory import HostProfile
from galore.trainer.fit.length.search import Longest, Search
from galore.trainer.machine.cards import card_or_default
from galore.trainer.recipe.load import load_recipe

GIB = 2**30
HOST = HostProfile({"inputs of recomputed blocks": GIB}, {"training": 0}, GIB, (5, 7), 0)
SETTINGS = {"data.max_length": 8192, "train.tile_tokens": "auto"}
FOUND = Longest("a card", 8192, 9216, "card", SETTINGS, 7 * GIB, 8 * GIB, HOST, None, 4096, (2, 3))


def test_lines() -> None:
    lines = dict(longest_lines(FOUND, 16.0))
    assert lines["longest"] == "8,192 tokens, a multiple of 1,024: 7.00 GiB of 8.00 GiB of a card"
    assert lines["beyond"] == "9,216 tokens take more than the card has"
    assert lines["settings"] == "data.max_length=8192, train.tile_tokens=auto"
    assert lines["positions"].startswith("the model knows 4,096: beyond them model.rope")
    assert lines["host"].startswith("fits: 2.00 GiB of 16 GiB")
    assert lines["basis"].startswith("traces of 2 and 3 blocks")


def test_other_bounds() -> None:
    assert dict(longest_lines(replace(FOUND, bound="host"), None))["beyond"].endswith("the host has")
    assert (
        dict(longest_lines(replace(FOUND, bound="search", too_long=None), None))["beyond"] == "nothing longer was tried"
    )
    none = dict(longest_lines(replace(FOUND, length=0, settings={}, host=None), None))
    assert none["longest"] == "none fits: sequences of 1,024 tokens take 7.00 GiB of 8.00 GiB of a card"
    assert set(none) == {"longest", "basis"}


def test_none_fits_the_host() -> None:
    none = dict(longest_lines(replace(FOUND, length=0, settings={}, bound="host"), 3.0))
    assert none["longest"].endswith("take 7.00 GiB of 8.00 GiB of a card, and more than the host has")
    assert none["host"].startswith("does not fit: 2.00 GiB of 3 GiB")
    assert "settings" not in none


def test_printed_and_as_json(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(Search, "longest", lambda self, ram: FOUND)
    loaded, on = load_recipe("demo"), card_or_default(None, "cpu")
    command = ["galore", "profile-memory", "my own.yaml", "optim.rank=4", "data.max_length=9", "--gpu", "a card"]
    show_longest(loaded, on, None, as_json=False, command=command)
    shown = capsys.readouterr().out
    assert " ".join(shown.split()).startswith(f"{on.note} longest ")
    again = (
        "galore profile-memory 'my own.yaml' optim.rank=4 --gpu 'a card' data.max_length=8192 train.tile_tokens=auto"
    )
    assert shown.splitlines()[-1] == again
    show_longest(loaded, on, 16.0, as_json=True, command=command)
    assert json.loads(capsys.readouterr().out)["longest_tokens"] == 8192
