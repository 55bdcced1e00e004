"""A recipe on a card, with the allocator as the run will set it."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from galore.trainer.fit.predict import profile_on
from galore.trainer.machine.cards import card
from galore.trainer.recipe.load import LoadedRecipe


@pytest.mark.skipif(sys.platform != "linux", reason="segments that grow are Linux's")
@pytest.mark.parametrize(
    ("wanted", "environment", "expandable"),
    [
        ("true", None, True),
        ("false", None, False),
        ("false", "expandable_segments:True", True),
        ("true", "expandable_segments:False", False),
    ],
)
def test_the_allocator_is_set_by_the_environment_else_by_the_recipe(
    tiny: Callable[..., LoadedRecipe],
    monkeypatch: pytest.MonkeyPatch,
    wanted: str,
    environment: str | None,
    expandable: bool,
) -> None:
    monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF", raising=False)
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)
    if environment is not None:
        monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", environment)
    found = profile_on(tiny("optim.method=full", f"train.expandable_segments={wanted}"), card("rtx3090"), brief=True)
    assert found.expandable is expandable
    assert found.card == card("rtx3090")
    assert found.fits is True
