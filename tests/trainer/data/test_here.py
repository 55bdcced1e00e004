"""What a recipe names and is not here is told by its key, before anything is read for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from galore.trainer.data.here import not_here, only_on_the_hub
from galore.trainer.recipe.load import load_recipe


@pytest.mark.parametrize(
    ("settings", "keys"),
    [
        (["data.source=local", "data.path=nope/*.txt"], ["data.path"]),
        (["data.source=local", "data.path=[a.txt, nope.txt]"], ["data.path"]),
        (["data.source=local", "data.path=a.txt", "data.validation_path=b.txt"], ["data.validation_path"]),
        (["data.source=local", "data.path=*.txt"], []),
        (["data.source=hub", "data.path=allenai/c4"], []),
        (["data.sources=[{path: a.txt}, {name: allenai/c4}, {path: nope.txt}]"], ["data.sources[2].path"]),
        (["data.tokenizer=./nope"], ["data.tokenizer"]),
        (["data.tokenizer=gpt2"], []),
        (
            ["data.source=local", "data.path=b.txt", "data.tokenizer=/no/tokenizer.json"],
            ["data.path", "data.tokenizer"],
        ),
        ([], []),
    ],
)
def test_what_a_run_would_not_find(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: list[str], keys: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("text")
    loaded = load_recipe("demo", settings)
    assert [error.where for error in not_here(loaded.recipe, loaded.base_dir)] == keys


def test_a_folder_of_a_task_and_of_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    there = ["data.path=nyu-mll/glue", "data.task=rte", "model.name_or_path=FacebookAI/roberta-base"]
    gone = ["data.path=./glue", "data.task=rte", "model.name_or_path=some/long/folder"]
    found = {}
    for settings in (there, gone):
        loaded = load_recipe("roberta-glue", settings)
        errors = not_here(loaded.recipe, loaded.base_dir)
        found[tuple(settings)] = [error.where for error in errors]
    assert list(found.values()) == [[], ["data.path", "model.name_or_path"]]


def test_a_name_that_may_be_a_typo_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    recipes = {
        name: load_recipe("finetune-instruct", [f"model.name_or_path={name}"]).recipe for name in ("mine", "mien")
    }
    assert only_on_the_hub(recipes["mine"], tmp_path) == []
    (line,) = only_on_the_hub(recipes["mien"], tmp_path)
    assert line.startswith("model.name_or_path: mien is nothing here")
    assert only_on_the_hub(load_recipe("demo").recipe, tmp_path) == []
