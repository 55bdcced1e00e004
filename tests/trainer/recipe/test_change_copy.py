"""`galore recipes copy` writes a file that loads to the same recipe and that editors understand."""

from __future__ import annotations

from pathlib import Path

import pytest

from galore.trainer.common.errors import UserError
from galore.trainer.recipe.change import copy_recipe
from galore.trainer.recipe.load import load_recipe
from galore.trainer.recipe.shipped import FOLDER


def test_copy_is_the_same_recipe(tmp_path: Path) -> None:
    file = copy_recipe("llama-60m-galore-8bit", tmp_path / "new" / "mine.yaml", ["optim.rank=8"])
    assert load_recipe(str(file)).recipe == load_recipe("llama-60m-galore-8bit", ["optim.rank=8"]).recipe


def test_nothing_in_it_is_of_this_machine(tmp_path: Path) -> None:
    text = copy_recipe("demo", tmp_path / "mine.yaml").read_text()
    assert text.startswith("# Copied from demo; defaults are written out. `galore recipes schema`")
    assert "$schema" not in text
    assert not any(str(place) in text for place in (FOLDER, tmp_path, Path.home()))


def test_into_a_folder(tmp_path: Path) -> None:
    assert copy_recipe("demo", tmp_path) == tmp_path / "demo.yaml"


def test_nothing_is_lost(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("precious")
    with pytest.raises(UserError, match="exists already"):
        copy_recipe("demo", file)
    assert file.read_text() == "precious"
    copy_recipe("demo", file, force=True)
    assert "packaged" in file.read_text()


def test_name_must_say_yaml(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"mine.yaml"):
        copy_recipe("demo", tmp_path / "mine")
