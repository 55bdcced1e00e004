"""What a command line says is one layer: typed, placed, and refused with the words that would be right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from galore.trainer.recipe.overrides import parse_overrides


@pytest.mark.parametrize(
    ("text", "section", "value"),
    [
        ("optim.rank=256", "optim", {"rank": 256}),
        (" optim.rank = 8 ", "optim", {"rank": 8}),
        ("optim.learning_rate=1e-3", "optim", {"learning_rate": 1e-3}),
        ("train.seed=null", "train", {"seed": None}),
        ("optim.target_modules=[mlp, q_proj]", "optim", {"target_modules": ["mlp", "q_proj"]}),
        ("data.path=a=b.txt", "data", {"path": "a=b.txt"}),  # only the first = parts
    ],
)
def test_values_are_yaml(text: str, section: str, value: dict[str, Any]) -> None:
    layer = parse_overrides([text])
    assert layer.problems == []
    assert layer.values == {section: value}


def test_of_two_for_one_key_the_later_wins() -> None:
    layer = parse_overrides(["optim.rank=1", "train.seed=3", "optim.rank=2"])
    assert layer.values == {"optim": {"rank": 2}, "train": {"seed": 3}}
    assert str(layer.place(("optim", "rank"))) == "override `optim.rank=2`"
    assert layer.place(("optim",)).is_override


def test_paths_are_relative_to_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    layer = parse_overrides(["data.path=here.txt"])
    assert layer.place(("data", "path")).directory == layer.directory == tmp_path


@pytest.mark.parametrize(
    ("text", "what", "fix"),
    [
        ("optim.rank", "is not of the form section.key=value", "for example optim.rank=256"),
        ("optim.rank=", "has no value", "it takes"),
        ("optim.max_grad_norm=", "has no value", "write optim.max_grad_norm=null for an empty value"),
        ("optim.lr=0.1", "there is no key `optim.lr`", "write optim.learning_rate=0.1"),
        ("rank=8", "there is no key `rank`", "write optim.rank=8"),
        ("extends=demo", "`extends` belongs in a file", "name the other recipe on the command line instead"),
    ],
)
def test_what_is_refused_says_what_to_write(text: str, what: str, fix: str) -> None:
    (problem,) = parse_overrides([text]).problems
    assert str(problem.place) == f"override `{text}`"
    assert problem.what == what
    assert problem.fix.startswith(fix)


@pytest.mark.parametrize("text", ["optim.target_modules=[mlp", "optim.rank={a: 1, a: 2}", "data.path=" + "[" * 5000])
def test_what_is_no_yaml_is_one_problem_and_the_others_go_on(text: str) -> None:
    layer = parse_overrides([text, "train.seed=3"])
    assert len(layer.problems) == 1
    assert layer.values["train"] == {"seed": 3}


def test_values_without_end_are_refused() -> None:
    (problem,) = parse_overrides(["data.path=[" + "a," * 20_000 + "]"]).problems
    assert "10,000" in problem.what
