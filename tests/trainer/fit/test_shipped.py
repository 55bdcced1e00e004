"""Which shipped recipe is pointed at: of the same model, of the same method if possible, and traced before it is named."""

from __future__ import annotations

import functools
from types import SimpleNamespace

import pytest

from galore.trainer.fit import shipped as module
from galore.trainer.fit.shipped import candidates, shipped_that_fits
from galore.trainer.machine.cards import card
from galore.trainer.recipe.load import load_recipe


@pytest.mark.parametrize(
    ("name", "gpu", "first"),
    [
        ("llama-7b-galore-8bit", "rtx3060", "llama-7b-12gb"),
        ("llama-7b", "rtx4080", "llama-7b-16gb"),
        ("llama-7b-lora", "rtx4080", "llama-7b-16gb"),  # no adapters fit
        ("llama-1b-full", "rtx4090", "llama-1b"),  # rather than adapters
        ("llama-1b", "rtx3070", "llama-1b-8gb"),  # of longer sequences
        ("llama-7b", "8GB", None),
        ("demo", "rtx4090", "demo-normuon"),
        ("retnet-demo", "rtx4090", None),
    ],
)
def test_the_first_candidate(name: str, gpu: str, first: str | None) -> None:
    found = list(candidates(load_recipe(name), card(gpu)))
    assert next(iter(found), None) == first
    assert name not in found


def test_another_model_has_none() -> None:
    assert list(candidates(load_recipe("llama-7b", ["model.hidden_size=2048"]), card("h200"))) == []


def test_what_is_named_was_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of another card may be wrong by a little: the next one is tried, and no more than a few."""
    for fitting, expected in (("llama-7b-24gb", "llama-7b-24gb"), ("llama-7b-12gb", None)):
        fits = functools.partial(lambda fitting, loaded, on: SimpleNamespace(fits=loaded.name == fitting), fitting)
        monkeypatch.setattr(module, "profile_on", fits)
        tried: list[str] = []
        found = shipped_that_fits(load_recipe("llama-7b"), card("rtx4090"), tried.append)
        assert (found and found[0]) == expected
        assert tried == ["llama-7b-galore-8bit", "llama-7b-24gb"]


@pytest.mark.slow
def test_of_llama_7b_on_12_gb() -> None:
    found = shipped_that_fits(load_recipe("llama-7b-galore-8bit"), card("rtx3060"))
    assert found is not None
    assert found[0] == "llama-7b-12gb"
    assert found[1].fits
