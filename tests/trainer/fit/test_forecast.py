"""What a run will need: nothing on the CPU, told where it cannot be said, and of the vocabulary that it has."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from galore.trainer.common.errors import UserError
from galore.trainer.fit import forecast
from galore.trainer.recipe.load import load_recipe


@pytest.fixture
def run(tmp_path: Any) -> Any:
    loaded = load_recipe("demo", [])
    file = tmp_path / "recipe.yaml"
    file.write_text("extends: demo\n")
    told: list[str] = []
    embedding = nn.Embedding(77, 4)
    return SimpleNamespace(
        device=SimpleNamespace(type="cuda"),
        directory=SimpleNamespace(recipe=file),
        recipe=loaded.recipe,
        group=None,
        model=SimpleNamespace(get_input_embeddings=lambda: embedding),
        console=SimpleNamespace(message=told.append, told=told),
    )


def test_on_the_cpu_there_is_none(run: Any) -> None:
    run.device.type = "cpu"
    assert forecast.card_of(run) is None
    assert forecast.forecast(run) is None
    assert run.console.told == []


def test_the_profile_is_of_the_runs_own_vocabulary(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast, "attached", lambda: "card")
    monkeypatch.setattr(forecast, "profile_of_one", lambda loaded, *rest: (loaded.recipe.model.vocab_size, *rest))
    assert forecast.forecast(run) == (77, "card", 1)
    run.group = SimpleNamespace(sharded=False, size=4)
    assert forecast.forecast(run) == (77, "card", 4)


def test_of_a_run_in_parts_the_profile_is_that_of_a_part(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run.group = SimpleNamespace(sharded=True, size=4)
    monkeypatch.setattr(forecast, "attached", lambda: "card")
    monkeypatch.setattr(
        forecast, "profile_of_part", lambda loaded, *rest: (loaded.recipe.train.global_batch_size, *rest)
    )
    assert forecast.forecast(run) == (run.recipe.train.global_batch_size // 4, "card", 4)


def test_a_pretrained_model_has_its_own(run: Any) -> None:
    run.recipe = SimpleNamespace(model=SimpleNamespace(name_or_path="some/model"))
    assert forecast.recipe_of(run).recipe.model.vocab_size is None


def test_what_cannot_be_traced_is_told(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise UserError("its code branches on data")

    monkeypatch.setattr(forecast, "attached", lambda: "card")
    monkeypatch.setattr(forecast, "profile_of_one", refuse)
    assert forecast.forecast(run) is None
    assert run.console.told == ["memory is not predicted: its code branches on data"]
