"""What the shell offers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from galore.cli.arguments import complete_override, complete_recipe, complete_shipped


def test_recipes_are_names_and_yaml_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("mine.yaml", "other.yml", "text.txt", ".hidden.yaml", "sub/deep.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    assert set(complete_recipe("")) >= {"demo", "llama-60m-galore", "mine.yaml", "other.yml", "sub/"}
    assert not set(complete_recipe("")) & {"text.txt", ".hidden.yaml"}
    assert "sub/deep.yaml" in complete_recipe("sub/")
    assert "./mine.yaml" in complete_recipe("./")
    assert complete_recipe("nowhere/x") == complete_recipe("nowhere/")  # no such folder, no error


def test_shipped_with_their_meaning() -> None:
    assert dict(complete_shipped("llama-7b-g")).keys() == {"llama-7b-galore", "llama-7b-galore-8bit"}


def test_keys_with_their_meaning() -> None:
    offered = dict(complete_override("optim.ra"))
    assert list(offered) == ["optim.rank=", "optim.rank_pattern="]
    assert "projection" in offered["optim.rank="]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("galore tr", "train"),
        ("galore train retnet-d", "retnet-demo"),
        ("galore train min", "mine.yaml"),
        ("galore recipes show llama-7b-l", "llama-7b-lora"),
        ("galore recipes copy llama-7b-l", "llama-7b-lora"),
        ("galore recipes validate mi", "mine.yaml"),
        ("galore train demo --res", "--resume"),
    ],
)
def test_bash(shell: Any, tmp_path: Path, words: str, expected: str) -> None:
    (tmp_path / "mine.yaml").touch()
    variables = {"_GALORE_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    code = "import sys; sys.argv[0] = 'galore'; from galore.cli.main import main; main()"
    assert shell(code=code, **variables).stdout.split() == [expected]


def test_completion_can_be_installed(shell: Any, tmp_path: Path) -> None:
    code = "import sys; sys.argv[0] = 'galore'; from galore.cli.main import main; main()"
    home = {"HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = shell("--install-completion", "bash", code=code, **home)
    assert done.returncode == 0
    assert "_GALORE_COMPLETE=complete_bash" in (tmp_path / ".bash_completions" / "galore.sh").read_text()
