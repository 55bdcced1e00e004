"""A plan is arithmetic: every number against one worked out by hand from the recipe and published figures."""

from __future__ import annotations

from typing import Any

import pytest

from galore.trainer.fit.plan import Plan, plan
from galore.trainer.parameters import Costs, dry_run
from galore.trainer.recipe.load import load_recipe

RTX4090 = "NVIDIA GeForce RTX 4090"
DAY = 86_400


def planned(name: str, *overrides: str, card: str = RTX4090, costs: Costs | None = None) -> Plan:
    loaded = load_recipe(name, list(overrides))
    return plan(loaded.recipe, costs or dry_run(loaded).costs, card)


def test_llama_7b_on_a_4090_by_hand() -> None:
    found = planned("llama-7b-24gb")
    blocks = 32 * (4 * 4096**2 + 3 * 4096 * 11_008)
    attention = 4 * 32 * 4096 * 2049 // 2  # of the positions that a token sees
    forward = 2 * (blocks + 32_000 * 4096) + attention
    again = 2 * blocks + attention  # every block, not the head
    assert found.flops_per_token == 3 * forward + again
    assert found.tokens == 150_000 * 64 * 2048 == 19_660_800_000
    assert found.flops == found.tokens * found.flops_per_token
    least, most = found.seconds or (0, 0)
    assert least == pytest.approx(found.flops / (0.5 * 165.2e12))
    assert 150 < least / DAY < 165
    assert 240 < most / DAY < 265
    energy = found.kilowatt_hours or (0, 0)
    assert energy == pytest.approx((24 * 0.450 * least / DAY, 24 * 0.450 * most / DAY))


def test_llama_1b_takes_two_to_four_weeks() -> None:
    least, most = planned("llama-1b").seconds or (0, 0)
    assert 14 < least / DAY < 15
    assert 23 < most / DAY < 25


@pytest.mark.parametrize(("blocks", "share"), [("false", 0), ("8", 0.25), ("true", 1)])
def test_only_what_is_recomputed_is_computed_twice(blocks: str, share: float) -> None:
    without = planned("llama-7b", "train.gradient_checkpointing=false").flops_per_token or 0
    found = planned("llama-7b", f"train.gradient_checkpointing={blocks}").flops_per_token or 0
    assert found - without == share * (2 * 32 * (4 * 4096**2 + 3 * 4096 * 11_008) + 2 * 32 * 4096 * 257)


SMALL = Costs(flops_per_token=1000, checkpoint_bytes=10, vocabulary=65_536)


@pytest.mark.parametrize(
    ("overrides", "count"),
    [
        (("train.max_steps=500", "train.save_steps=250"), 2),
        (("train.max_steps=501", "train.save_steps=250"), 3),
        (("train.max_steps=5000", "train.save_steps=250"), 3),  # two are kept, and one is written
        (("train.max_steps=5000", "train.save_steps=250", "train.save_total_limit=5"), 6),
        (("train.save_steps=null",), 1),
        (("train.max_steps=5000", "train.save_steps=250", "train.save_best=true"), 4),  # the best stays, too
        (("train.max_steps=5000", "train.save_steps=null", "train.save_best=true"), 4),
        (("train.max_steps=null", "train.num_train_epochs=2"), 3),
    ],
)
def test_checkpoints_on_the_disk_at_a_time(overrides: tuple[str, ...], count: int) -> None:
    found = planned("demo", *overrides, costs=SMALL)
    assert (found.checkpoints, found.disk_bytes) == (count, 10 * count)


@pytest.mark.parametrize(
    ("overrides", "vocabulary", "nbytes"),
    [
        ((), 65_536, 2),
        ((), 65_537, 4),
        (("data.source=local", "data.path=x.jsonl", "data.messages_field=messages"), 65_536, 3),
        (("data.source=hub", "data.path=allenai/c4"), 65_536, None),
    ],
)
def test_the_cache_of_tokens(overrides: tuple[str, ...], vocabulary: int, nbytes: int | None) -> None:
    costs = Costs(1000, 10, vocabulary)
    assert planned("demo", *overrides, costs=costs).cache_bytes_per_token == nbytes


def test_epochs_leave_open_how_many_tokens() -> None:
    found = planned("demo", "train.max_steps=null", "train.num_train_epochs=2", costs=SMALL)
    assert (found.epochs, found.steps, found.tokens, found.flops, found.seconds, found.kilowatt_hours) == (
        (2.0,) + 5 * (None,)
    )
    assert found.seconds_of(10**9) == pytest.approx((1e12 / 0.5 / 165.2e12, 1e12 / 0.3 / 165.2e12))
    assert planned("demo", "train.num_train_epochs=2", "train.max_steps=9", costs=SMALL).epochs is None, "steps end it"


@pytest.mark.parametrize("card", ["NVIDIA GeForce RTX 3080", "a GPU with 24 GB"])
def test_no_time_on_a_card_of_unknown_peak(card: str) -> None:
    found = planned("demo", card=card, costs=SMALL)
    assert (found.peak, found.seconds, found.kilowatt_hours) == (None, None, None)
    assert found.flops == 500 * 16 * 128 * 1000


def test_no_time_for_a_model_whose_flops_are_not_known() -> None:
    found = planned("demo", costs=Costs(None, 10, 100))
    assert (found.flops, found.seconds) == (None, None)


def test_as_json_marks_what_is_assumed() -> None:
    found: dict[str, Any] = planned("demo", costs=SMALL).as_json()
    assert found["assumed_share_of_peak"] == (0.3, 0.5)
    assert found["tokens"] == 500 * 16 * 128
    assert {"card", "flops", "seconds", "kilowatt_hours", "disk_bytes", "watts", "peak"} <= set(found)


@pytest.mark.parametrize(
    ("overrides", "steps"), [((), 75), (("train.save_steps=null",), 150_000), (("train.max_steps=50",), 50)]
)
def test_what_a_power_cut_costs_is_the_time_from_one_checkpoint_to_the_next(
    overrides: tuple[str, ...], steps: int
) -> None:
    found = planned("llama-7b-24gb", *overrides, costs=SMALL)
    assert found.seconds is not None
    assert found.seconds_unsaved == pytest.approx([each * steps / (found.steps or 0) for each in found.seconds])


@pytest.mark.parametrize("name", ["llama-1b", "llama-7b-24gb", "llama-13b-24gb"])
def test_recipes_of_a_card_are_saved_every_hours_or_so(name: str) -> None:
    """At 30 to 50 % of the peak, which is what is assumed where no step was traced."""
    least, most = planned(name).seconds_unsaved or (0, 0)
    assert 1800 < least < most < 4 * 3600
