"""The longest sequences of a recipe: few traces, few blocks, and what they say is what a whole trace says."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest

from galore.trainer.common.errors import UserError
from galore.trainer.fit.hostmemory import SYSTEM
from galore.trainer.fit.length import search as module
from galore.trainer.fit.length.search import Search
from galore.trainer.fit.predict import profile_on
from galore.trainer.machine.cards import Card, card
from galore.trainer.recipe.load import LoadedRecipe, load_recipe

Tiny = Callable[..., LoadedRecipe]
FOUR = "model.num_hidden_layers=6"


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of traces: a thousand bytes a token, and a gigabyte."""
    monkeypatch.setattr(Search, "total", lambda self, length: 1e9 + 1e3 * length)
    monkeypatch.setattr(Search, "duration", lambda self, length: None)


def with_room(nbytes: float) -> Card:
    return replace(card("8GB"), usable_low=int(nbytes), usable_high=int(nbytes))


def test_few_blocks_say_what_all_of_them_need(tiny: Tiny) -> None:
    search = Search(tiny(FOUR), card("rtx4090"))
    whole = profile_on(search.changed(2048), card("rtx4090"))
    assert search.traced == (2, 3)
    assert search.total(2048) == pytest.approx(whole.total.high, rel=0.02)


def test_every_further_block_counts(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    on = card("rtx4090")
    made = [SimpleNamespace(allocated=nbytes, total=nbytes + on.context_high) for nbytes in (100e6, 110e6)]
    monkeypatch.setattr(Search, "_traces", lambda self, length: made)
    needed = Search(tiny(FOUR), on).total(2048) - on.context_high
    assert needed == pytest.approx(110e6 + (1 + module.IDLE) * 3 * 10e6)


@pytest.mark.usefixtures("traced")
def test_the_longest_on_a_small_card(tiny: Tiny) -> None:
    found = Search(tiny(FOUR), with_room(1e9 + 50e6)).longest(16.0)
    assert (found.length, found.too_long, found.bound) == (48 * 1024, 49 * 1024, "card")
    assert found.settings["data.max_length"] == found.settings["model.max_position_embeddings"] == found.length
    assert found.settings["train.tile_tokens"] == "auto"
    assert found.settings["train.offload_activations"]
    facts = json.loads(json.dumps(found.as_json(16.0)))
    assert facts["longest_tokens"] == found.length
    assert facts["host"]["fits"] is True
    assert facts["basis"].startswith("traces of 2 and 3 blocks")


@pytest.mark.usefixtures("traced")
def test_none_fits(tiny: Tiny) -> None:
    found = Search(tiny(FOUR), with_room(1e9)).longest(None)
    assert (found.length, found.too_long, found.settings) == (0, 1024, {})


@pytest.mark.usefixtures("traced")
def test_the_host_may_be_the_bound(tiny: Tiny) -> None:
    search = Search(tiny(FOUR), with_room(1e9 + 33e6))
    assert search.longest(None).length == 32 * 1024
    needed = (module.host_profile(search.changed(8192), "cuda").total + SYSTEM) / 2**30
    found = search.longest(needed)
    assert found.bound == "host"
    assert 8192 <= found.length < 16_384  # pinned memory takes powers of two
    assert found.too_long == found.length + 1024
    none = search.longest(3.0)
    assert (none.length, none.too_long, none.bound) == (0, 1024, "host")
    assert none.host is not None
    assert not none.host.fits(3.0)


def test_tokens_of_a_step_stay_and_positions_of_a_model_by_name_are_known() -> None:
    loaded = load_recipe("llama-7b-24gb", ["model.architecture_of=llama-2-7b"])
    search = Search(loaded, card("rtx4090"))
    assert search.positions == 4096
    assert search.traced is None
    assert search.settings(4096)["train.global_batch_size"] == 32
    assert "model.rope" not in search.settings(4096)
    assert search.settings(10_240)["model.rope"] == {"type": "yarn", "factor": 3.0}
    assert search.changed(10_240).recipe.model.rope is not None


def test_streamed_blocks_are_traced_beside_those_on_the_device(tiny: Tiny) -> None:
    assert Search(tiny(FOUR, "train.stream_weights=true"), card("rtx4090")).traced == (4, 5)
    assert Search(tiny("model.num_hidden_layers=3"), card("rtx4090")).traced is None


def test_a_recipe_that_contradicts_longer_sequences(tiny: Tiny) -> None:
    loaded = tiny("train.length_stages=[{max_length: 48, steps: 1}]", "data.max_length=96")
    with pytest.raises(UserError, match="cannot have sequences of 1,024 tokens"):
        Search(loaded, card("rtx4090")).changed(1024)
