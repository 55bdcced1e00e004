"""`galore recipes copy` writes a file that loads to the same recipe and that editors understand."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

import pytest

from galore.trainer.common.errors import UserError
from galore.trainer.recipe.change import copy_recipe
from galore.trainer.recipe.load import load_recipe
from galore.trainer.recipe.shipped import SCHEMA_FILE


def test_copy_is_the_same_recipe(tmp_path: Path) -> None:
    file = copy_recipe("llama-60m-galore-8bit", tmp_path / "new" / "mine.yaml", ["optim.rank=8"])
    assert load_recipe(str(file)).recipe == load_recipe("llama-60m-galore-8bit", ["optim.rank=8"]).recipe


def test_header_names_a_schema_that_is_there(tmp_path: Path) -> None:
    first = copy_recipe("demo", tmp_path / "mine.yaml").read_text().splitlines()[0]
    address = first.removeprefix("# yaml-language-server: $schema=")
    assert Path(url2pathname(urlparse(address).path)) == SCHEMA_FILE
    assert SCHEMA_FILE.is_file()


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
