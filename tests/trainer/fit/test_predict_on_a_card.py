"""A recipe on a card, with the allocator as the run will set it."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from galore.kernels import device
from galore.kernels.model import cross_entropy
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


def test_a_round_that_stands_for_others_takes_as_much(
    tiny: Callable[..., LoadedRecipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the loss's chunks few are traced: bytes and operations are those of all."""

    def found() -> tuple[tuple[object, ...], int]:
        profile, done = profile_on(tiny("optim.method=lora"), card("rtx4090"), brief=True), Counter[Any]()
        for operation in profile.trace.operations:
            for part, count in operation.counts.items():
                done[operation.call.function, operation.made, part] += count
        on_card = {key: count for key, count in done.items() if all(made.device == "meta" for made in key[1])}
        return (profile.total, profile.allocated, profile.phases, profile.peak.categories, on_card), len(
            profile.trace.events
        )

    monkeypatch.setattr(cross_entropy, "CHUNK_ELEMENTS", 2**10)
    few = found()
    monkeypatch.setattr(device, "LEADING", 10**6)
    every = found()
    assert few[0] == every[0]
    assert few[1] < every[1]
