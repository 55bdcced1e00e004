"""A search comes to the same, killed or not, is no worse than what it began with, and a recipe reads it."""

from __future__ import annotations

import errno
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from galore.trainer.common.errors import UserError
from galore.trainer.recipe.load import LoadedRecipe
from galore.trainer.trained.evaluation import evaluate_stored
from galore.trainer.trained.longcontext import picture, scores
from galore.trainer.trained.longcontext.evolution import Size
from galore.trainer.trained.longcontext.ropesearch import Asked, search

ASKED = Asked(64, rows=2, generations=3, size=Size(14, 4, 4, 4))


def test_a_killed_search_comes_to_the_same(trained: tuple[Path, Path], longer: LoadedRecipe, tmp_path: Path) -> None:
    model = str(trained[0])
    whole = search(model, longer, tmp_path / "a", ASKED)
    told = list[Any]()

    def kill(*progress: Any) -> None:
        told.append(progress)
        if len(told) == 17:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(model, longer, tmp_path / "b", ASKED, tell=kill)
    assert not (tmp_path / "b/rope.json").exists()
    again = search(model, longer, tmp_path / "b", ASKED)
    assert (tmp_path / "a/rope.json").read_bytes() == (tmp_path / "b/rope.json").read_bytes()
    assert replace(again, course=[]) == replace(whole, course=[])
    assert whole.loss <= min(whole.known["yarn"], whole.known["linear"]) + 1e-4
    assert picture.draw(whole, "title").startswith(b"\x89PNG")
    with pytest.raises(UserError, match="holds another search: seed was 42, and is 1"):
        search(model, longer, tmp_path / "a", replace(ASKED, seed=1))


def test_the_losses_of_other_weights_or_another_configuration_are_not_taken(
    trained: tuple[Path, Path], longer: LoadedRecipe, tmp_path: Path
) -> None:
    model, few = tmp_path / "model", replace(ASKED, generations=1)
    shutil.copytree(trained[0], model)
    (model / "galore-manifest.json").unlink()
    search(str(model), longer, tmp_path / "found", few)
    file, config = model / "model.safetensors", model / "config.json"
    whole, settings = file.read_bytes(), config.read_text()
    tensors = load_file(file)
    last = [name for name in tensors if "down_proj" in name][-1]
    save_file({**tensors, last: tensors[last].flip(0).contiguous()}, file, {"format": "pt"})
    with pytest.raises(UserError, match="holds another search: weights was "):
        search(str(model), longer, tmp_path / "found", few)
    file.write_bytes(whole)
    search(str(model), longer, tmp_path / "found", few)
    values = json.loads(settings)
    values["rms_norm_eps"] = 0.5
    config.write_text(json.dumps(values))
    with pytest.raises(UserError, match="holds another search: weights was "):
        search(str(model), longer, tmp_path / "found", few)


def test_a_recipe_names_the_result(trained: tuple[Path, Path], longer: LoadedRecipe, tmp_path: Path) -> None:
    from galore.trainer.recipe.load import load_recipe

    found = search(str(trained[0]), longer, tmp_path, replace(ASKED, rows=1000, generations=1))
    rope = f"model.rope={{type: longrope, factors: {tmp_path}/rope.json}}"
    sizes = ["data.max_length=64", "model.max_position_embeddings=64", rope]
    scored = evaluate_stored(str(trained[0]), load_recipe(str(trained[1]), sizes), max_tokens=10**9)
    assert scored.result.row()["loss_nats"] == pytest.approx(found.loss, rel=1e-6)
    assert json.loads((tmp_path / "rope.json").read_text())["search"]["perplexity"] == found.perplexity


def test_time_that_is_over_leaves_what_was_found(
    trained: tuple[Path, Path], longer: LoadedRecipe, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="before the first candidate is scored"):
        search(str(trained[0]), longer, tmp_path, replace(ASKED, budget=1e-9))
    search(str(trained[0]), longer, tmp_path, replace(ASKED, generations=1))
    late = search(str(trained[0]), longer, tmp_path, replace(ASKED, budget=1e-9))
    assert not late.done
    assert (tmp_path / "rope.json").exists()


@pytest.mark.parametrize("budget", [None, 1e9])
def test_a_disk_that_does_not_answer_in_time_is_no_budget_that_is_spent(
    trained: tuple[Path, Path], longer: LoadedRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: Any
) -> None:
    def late(*_: Any) -> None:
        raise OSError(errno.ETIMEDOUT, "Connection timed out")

    monkeypatch.setattr(scores, "replace_file", late)
    with pytest.raises(TimeoutError, match="Connection timed out"):
        search(str(trained[0]), longer, tmp_path, replace(ASKED, budget=budget))


def test_start_tokens_are_searched_where_they_may_be(
    trained: tuple[Path, Path], longer: LoadedRecipe, tmp_path: Path
) -> None:
    search(str(trained[0]), longer, tmp_path, replace(ASKED, start_tokens=(0, 4)))
    losses = json.loads((tmp_path / "scores.json").read_text())["losses"]
    assert any('"start_tokens": 4' in key for key in losses)


def test_rows_that_are_not_there_are_one_error(
    trained: tuple[Path, Path], longer: LoadedRecipe, tmp_path: Path
) -> None:
    with pytest.raises(UserError):
        search(str(trained[0]), longer, tmp_path, replace(ASKED, length=10**6))
    with pytest.raises(UserError, match="trained at 16 tokens, and 16 are no more"):
        search(str(trained[0]), longer, tmp_path, replace(ASKED, length=16))
