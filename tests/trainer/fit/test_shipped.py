"""Which shipped recipe is pointed at: of the same model, of the same method if possible, and traced before it is named."""

from __future__ import annotations

import functools
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from galore.trainer.fit import shipped as module
from galore.trainer.fit.shipped import Shipped, candidates, shipped_that_fits
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


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("llama-60m-galore", "llama-60m-galore"),
        ("llama-60m-normuon", "llama-60m-normuon"),
        ("llama-60m-lora", "llama-60m-lora"),
        ("llama-7b-galore", "llama-7b-galore-8bit"),  # as shipped it does not fit
    ],
)
def test_a_shipped_recipe_with_other_settings_is_pointed_at_as_it_is(name: str, first: str) -> None:
    found = candidates(load_recipe(name, ["train.micro_batch_size=512"]), card("rtx4090"))
    assert next(found) == first


@pytest.mark.parametrize("inner", ["adamw", "normuon"])
def test_those_of_the_same_method_come_first(inner: str) -> None:
    residual = {"adamw": "none", "normuon": "joint-4bit"}[inner]
    own = ["optim.method=galore", f"optim.inner={inner}", f"optim.residual={residual}", "optim.rank=64"]
    names = list(candidates(replace(load_recipe("llama-60m", own), origin="mine.yaml"), card("rtx4090")))
    found = [load_recipe(each).recipe.optim for each in names]
    same = [(optim.method, optim.inner) == ("galore", inner) for optim in found]
    assert same == sorted(same, reverse=True)
    assert same[0]


def test_another_method_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    profiled: Any = SimpleNamespace(fits=True)
    monkeypatch.setattr(module, "profile_on", lambda loaded, on: profiled)
    for name, gpu, expected in (
        ("llama-7b-galore-8bit", "rtx3060", Shipped("llama-7b-12gb", profiled)),
        ("llama-1b-full", "rtx4090", Shipped("llama-1b", profiled, "galore")),
        ("llama-7b-24gb-normuon", "rtx4080", Shipped("llama-7b-16gb", profiled, "galore-8bit")),
    ):
        assert shipped_that_fits(load_recipe(name), card(gpu)) == expected


def test_another_model_has_none() -> None:
    assert list(candidates(load_recipe("llama-7b", ["model.hidden_size=2048"]), card("h200"))) == []


def test_what_is_named_was_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of another card may be wrong by a little: the next one is tried, and no more than a few."""
    for fitting, expected in (("llama-7b-24gb", "llama-7b-24gb"), ("llama-7b-12gb", None)):
        fits = functools.partial(lambda fitting, loaded, on: SimpleNamespace(fits=loaded.name == fitting), fitting)
        monkeypatch.setattr(module, "profile_on", fits)
        tried: list[str] = []
        found = shipped_that_fits(load_recipe("llama-7b"), card("rtx4090"), tried.append)
        assert (found and found.name) == expected
        assert tried == ["llama-7b-galore-8bit", "llama-7b-24gb"]


@pytest.mark.slow
def test_of_llama_7b_on_12_gb() -> None:
    found = shipped_that_fits(load_recipe("llama-7b-galore-8bit"), card("rtx3060"))
    assert found is not None
    assert found.name == "llama-7b-12gb"
    assert found.profile.fits
