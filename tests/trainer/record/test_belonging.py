"""Which run a path belongs to, and what is told of a part of one."""

from pathlib import Path

import pytest

from galore.trainer.common.errors import UserError
from galore.trainer.record.belonging import is_checkpoint, refuse_part_of_run, run_of
from galore.trainer.record.rundir import RunDir
from galore.trainer.trained.runmodel import load_run_model


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What lies in the folder of a run that is called `runs/one`, seen from here."""
    monkeypatch.chdir(tmp_path)
    for part in ("checkpoints/step-00000010", "tokenizer", "model", "exported"):
        (tmp_path / "runs/one" / part).mkdir(parents=True)
    (tmp_path / "runs/one/recipe.yaml").write_text("extends: demo\n")
    (tmp_path / "runs/one/exported/config.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize("part", ["checkpoints", "tokenizer", "checkpoints/step-00000099"])
def test_a_part_of_a_run_is_told_by_the_command_for_the_run(trained: Path, part: str) -> None:
    with pytest.raises(UserError, match="is a part of a run") as caught:
        load_run_model(f"runs/one/{part}")
    assert "galore eval runs/one;" in caught.value.fix
    assert caught.value.where == f"runs/one/{part}"


def test_a_run_is_known_by_its_folder_its_recipe_and_its_checkpoints(trained: Path) -> None:
    run = RunDir(trained / "runs/one")
    assert run_of(run.recipe) is None, "any recipe, as far as one sees"
    run.facts.write_text("{}")
    paths = (run.root, run.recipe, run.checkpoints / "step-00000010", run.checkpoints, run.root / "exported")
    assert [run_of(path) for path in paths] == [run, run, run, None, None]
    found = run_of(Path("runs/one/checkpoints/step-00000010/"))
    assert found == run
    assert is_checkpoint(Path("runs/one/checkpoints/step-00000010"))
    assert not is_checkpoint(Path("runs/one/checkpoints/step-00000011"))


def test_an_export_inside_a_run_and_the_run_itself_are_no_part(trained: Path) -> None:
    refuse_part_of_run(Path("runs/one/exported"))
    refuse_part_of_run(Path("runs/one"))
    refuse_part_of_run(Path("runs"))


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("runs/oen", "did you mean runs/one?"),
        ("runs/nope", "`galore runs` lists the runs"),
        ("./x", "name the folder"),
        ("a/b/c", "name the folder"),
    ],
)
def test_a_run_that_is_not_there_is_no_question_to_the_hub(trained: Path, name: str, fix: str) -> None:
    with pytest.raises(UserError, match="there is no such run or folder") as caught:
        load_run_model(name)
    assert caught.value.where == name
    assert fix in caught.value.fix
