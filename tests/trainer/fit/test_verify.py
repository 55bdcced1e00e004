"""Predicted beside measured."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch

from galore.trainer.common.errors import UserError
from galore.trainer.fit import verify as module
from galore.trainer.fit.measure import Measurement, measure
from galore.trainer.fit.predict import predict
from galore.trainer.fit.verify import Verification, verify
from galore.trainer.memory.categories import CATEGORIES
from galore.trainer.memory.trace.trace import Allocation, Trace
from galore.trainer.recipe.load import LoadedRecipe

Tiny = Callable[..., LoadedRecipe]


def test_a_real_run(tiny: Tiny) -> None:
    found = verify(tiny("train.global_batch_size=4"))
    assert abs(found.predicted - found.measured) < 0.005 * found.measured
    assert tuple(found.categories) == CATEGORIES
    assert found.phases[0] == found.phases[1]
    assert found.device == "the CPU"
    ours, theirs = found.categories["weights"]
    assert ours == theirs > 250_000
    assert sum(ours for ours, _ in found.categories.values()) == found.predicted


@pytest.mark.parametrize("more", [[], ["train.stream_weights=true", "optim.weight_dtype=int8", "optim.method=galore"]])
def test_tiles_of_tokens(tiny: Tiny, more: list[str]) -> None:
    """What is predicted of them is measured, and is less than of the whole."""
    long = ["model.num_hidden_layers=3", "model.intermediate_size=256", "data.max_length=128", "optim.rank=4"]
    found = [
        (max(predict(loaded, None).requested()), measure(loaded, torch.device("cpu")).allocator_bytes)
        for loaded in (tiny(*long, *more, f"train.tile_tokens={tokens}") for tokens in (50, "null"))
    ]
    assert all(abs(ours - theirs) < 0.01 * theirs for ours, theirs in found)
    assert found[0][0] < 0.9 * found[1][0]


def made(*sizes: tuple[str, int]) -> Trace:
    """A trace whose last storage makes the peak."""
    trace = Trace()
    trace.mark("first step: update")
    for category, nbytes in sizes:
        trace.born(Allocation(nbytes, nbytes, category, "", "mm", (nbytes,), "uint8", len(trace.events)))
    trace.died(0)
    return trace


@pytest.fixture
def found(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> Verification:
    monkeypatch.setattr(module, "predict", lambda loaded, card: made(("weights", 100), ("gradients", 20)))
    measured = Measurement(made(("weights", 100), ("activations", 5)), 125, "asked")
    monkeypatch.setattr(module, "measure", lambda loaded, device: measured)
    return verify(tiny())


def test_each_at_its_own_peak_and_the_whole_against_the_allocator(found: Verification) -> None:
    assert (found.predicted, found.measured, found.basis) == (120, 125, "asked")
    told = {name: pair for name, pair in found.categories.items() if any(pair)}
    assert told == {"weights": (100, 100), "gradients": (20, 0), "activations": (0, 5)}


def test_as_json(found: Verification) -> None:
    facts = json.loads(json.dumps(found.as_json()))
    assert facts["predicted_bytes"] == 120
    assert facts["measured_bytes"] == 125
    assert facts["error_fraction"] == pytest.approx(-0.04)
    assert facts["categories"]["gradients"] == {"predicted": 20, "measured": 0}
    assert facts["peak"] == {"predicted": "first step: update", "measured": "first step: update"}
    assert (facts["device"], facts["basis"]) == ("the CPU", "asked")


def test_error_in_words() -> None:
    assert Verification.error(101, 100) == "+1.000 %"
    assert Verification.error(995, 1000) == "-0.500 %"
    assert Verification.error(5, 0) == "–"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there(tiny: Tiny) -> None:
    with pytest.raises(UserError, match="no CUDA device"):
        verify(tiny("train.device=cuda"))
