"""What a recipe can change to need less memory: in order, with settings that the recipe takes or refuses."""

from __future__ import annotations

from typing import Any

import pytest

from galore.trainer.fit.remedies import COSTS, SAME_RESULTS, halved, larger_micro_batches, remedies, remedy
from galore.trainer.recipe.change import changed
from galore.trainer.recipe.load import LoadedRecipe, load_recipe

SEGMENTS = "nothing"
EVALUATION = "slower evaluations"
MICRO_BATCH = "same results; smaller products use the card less well"
CHECKPOINTING = "same results; one more forward: up to a third more time"
OFFLOADING = "same results; host memory, and the bus in use both ways"
OTHER_SPLIT = "another split into micro-batches, which is part of what this recipe computes"
BACKWARD = "same results up to rounding"
STAGGER = "layers refresh in turns instead of together"
RANDOMIZED = "another estimate of the same subspace"
ACCUMULATORS = "gradient sums are rounded to 8 bits of mantissa"
STATES = "Adam's moments in 8 bits; 8-bit Adam is close to Adam in practice"
WEIGHTS = "half the bits of every weight, rounded stochastically"
CODES = "target matrices in 8 bits, rounded stochastically, as Q-GaLore has them"
RANK = "a smaller subspace: choose the learning rate anew"
GALORE = "low-rank projection instead of full rank: choose the learning rate anew"
LENGTH = "shorter sequences: another training problem"
IMMEDIATE = "no accumulation and no clipping: batches of one micro-batch"
IN_ORDER = (
    SEGMENTS, EVALUATION, MICRO_BATCH, CHECKPOINTING, OFFLOADING, BACKWARD, OTHER_SPLIT, STAGGER, RANDOMIZED,
    ACCUMULATORS, STATES, WEIGHTS, CODES, RANK, GALORE, LENGTH, IMMEDIATE,
)  # fmt: skip

BATCHES = ("train.global_batch_size=24", "train.micro_batch_size=8", "data.max_length=128")
AT_ONCE = ("optim.update=immediate", "optim.refresh=first-micro-batch", "optim.max_grad_norm=null")
BASES: dict[str, tuple[str, ...]] = {
    "full": ("optim.method=full",),
    "muon": ("optim.method=full", "optim.inner=muon", "optim.state_dtype=8bit"),
    "normuon": ("optim.method=full", "optim.inner=normuon", "optim.state_dtype=4bit"),
    "scale": ("optim.method=full", "optim.inner=scale", "optim.state_dtype=8bit"),
    "lora": ("optim.method=lora", "optim.rank=16"),
    "galore": (),
    "svd, together, in the hook": ("optim.proj_type=svd", "optim.stagger=false", "optim.projection=hook"),
    "two passes": ("optim.refresh=two-pass", "optim.stagger=false"),
    "reference": ("optim.convention=reference", "optim.proj_type=svd", "optim.stagger=false"),
    "first micro-batch": ("optim.refresh=first-micro-batch",),
    "immediate": (*AT_ONCE, "train.global_batch_size=8"),
    "immediate svd": (*AT_ONCE, "optim.proj_type=svd", "train.global_batch_size=8"),
    "frugal": (
        "optim.state_dtype=8bit",
        "optim.accumulator_dtype=bfloat16",
        "train.gradient_checkpointing=true",
        "train.micro_batch_size=1",
    ),
    "lavish": ("model.dtype=float32", "optim.rank=256", "data.max_length=128", "train.expandable_segments=false"),
}
EXPECTED: dict[str, list[str]] = {
    "full": [MICRO_BATCH, CHECKPOINTING, ACCUMULATORS, STATES, GALORE],
    "muon": [MICRO_BATCH, CHECKPOINTING, ACCUMULATORS, STATES, GALORE],
    "normuon": [MICRO_BATCH, CHECKPOINTING, ACCUMULATORS, GALORE],
    "scale": [MICRO_BATCH, CHECKPOINTING, ACCUMULATORS, STATES, GALORE],
    "lora": [MICRO_BATCH, CHECKPOINTING, ACCUMULATORS, STATES, RANK],
    "galore": [MICRO_BATCH, CHECKPOINTING, ACCUMULATORS, STATES, CODES, IMMEDIATE],
    "svd, together, in the hook": [
        MICRO_BATCH, CHECKPOINTING, BACKWARD, STAGGER, RANDOMIZED, ACCUMULATORS, STATES, CODES, IMMEDIATE
    ],
    "two passes": [MICRO_BATCH, CHECKPOINTING, STAGGER, ACCUMULATORS, STATES, CODES, IMMEDIATE],
    "reference": [MICRO_BATCH, CHECKPOINTING, ACCUMULATORS, STATES, CODES, IMMEDIATE],
    "first micro-batch": [CHECKPOINTING, OTHER_SPLIT, ACCUMULATORS, STATES, CODES, IMMEDIATE],
    "immediate": [CHECKPOINTING, ACCUMULATORS, STATES, CODES],
    "immediate svd": [CHECKPOINTING, RANDOMIZED, ACCUMULATORS, STATES, CODES],
    "frugal": [OFFLOADING, CODES, IMMEDIATE],
    "lavish": [SEGMENTS, MICRO_BATCH, CHECKPOINTING, ACCUMULATORS, STATES, WEIGHTS, CODES, RANK, IMMEDIATE],
}  # fmt: skip
REFUSED = {  # what contradicts the rest of the recipe
    ("two passes", STAGGER),  # every step would be two
}


def base(name: str) -> LoadedRecipe:
    return load_recipe("demo", [*BATCHES, *BASES[name]])


@pytest.mark.parametrize("name", BASES)
def test_each_once_from_the_least_to_the_most_disruptive(name: str) -> None:
    found = [each.cost for each in remedies(base(name).recipe)]
    assert [cost for cost in found if cost in IN_ORDER] == EXPECTED[name]
    assert found == sorted(set(found), key=COSTS.index)


def test_the_order_is_kept() -> None:
    assert tuple(cost for cost in COSTS if cost in IN_ORDER) == IN_ORDER


@pytest.mark.parametrize("name", BASES)
def test_every_step_is_taken_by_the_recipe_or_refused_for_a_reason(name: str) -> None:
    loaded = base(name)
    for each in remedies(loaded.recipe):
        assert each == remedy(loaded.recipe, each.cost)
        for settings in each.steps:
            other = changed(loaded, settings)
            assert (other is None) == ((name, each.cost) in REFUSED), settings
            if other is not None:
                assert other.recipe != loaded.recipe
                assert (
                    each.cost in (MICRO_BATCH, OTHER_SPLIT)
                    or not remedy(other.recipe, each.cost).steps
                    or len(each.steps) > 1
                )


def steps(cost: str, *overrides: str) -> list[dict[str, Any]]:
    return list(remedy(load_recipe("demo", [*BATCHES, *overrides]).recipe, cost).steps)


@pytest.mark.parametrize(
    ("cost", "overrides", "key", "values"),
    [
        (MICRO_BATCH, (), "train.micro_batch_size", [6, 4, 3, 2, 1]),  # what divides 24
        (MICRO_BATCH, ("train.micro_batch_size=1",), "train.micro_batch_size", []),
        (EVALUATION, ("eval.micro_batch_size=12",), "eval.micro_batch_size", [6, 3, 1]),
        (EVALUATION, ("eval.micro_batch_size=1",), "eval.micro_batch_size", []),
        (RANK, ("optim.rank=512",), "optim.rank", [256, 128, 64]),
        (RANK, ("optim.method=lora", "optim.rank=16"), "optim.rank", [8, 4]),
        (RANK, ("optim.method=full", "optim.rank=512"), "optim.rank", []),
        (LENGTH, ("model.max_position_embeddings=2048", "data.max_length=1000"), "data.max_length", [500, 250]),
        (SEGMENTS, ("train.expandable_segments=false",), "train.expandable_segments", [True]),
    ],
)
def test_steps_are_the_mildest_first(cost: str, overrides: tuple[str, ...], key: str, values: list[object]) -> None:
    assert steps(cost, *overrides) == [{key: value} for value in values]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (("model.num_hidden_layers=32",), [4, 8, 12, 16, 20, 24, 28, True]),
        (("model.num_hidden_layers=3",), [1, 2, True]),
        (("model.num_hidden_layers=1",), [True]),
        (("model.num_hidden_layers=32", "train.gradient_checkpointing=20"), [24, 28, True]),
        (("train.gradient_checkpointing=true",), []),
        (("model.name_or_path=some/model",), [True]),
    ],
)
def test_some_blocks_are_recomputed_before_all(overrides: tuple[str, ...], expected: list[object]) -> None:
    found = [settings["train.gradient_checkpointing"] for settings in steps(CHECKPOINTING, *overrides)]
    assert [(type(each), each) for each in found] == [(type(each), each) for each in expected]


def test_where_micro_batches_count_others_are_no_same_results() -> None:
    """A router's loss is one of each of them, by the recipe or the model's configuration."""
    for overrides, router in (((), True), (("model.router_aux_loss=0.01",), False)):
        recipe = load_recipe("demo", [*BATCHES, *overrides]).recipe
        assert remedy(recipe, MICRO_BATCH, router).steps == ()
        assert remedy(recipe, OTHER_SPLIT, router).steps[0] == {"train.micro_batch_size": 6}
        assert larger_micro_batches(recipe, router=router) == []
    recipe = load_recipe("demo", [*BATCHES, "model.router_aux_loss=0"]).recipe
    assert remedy(recipe, MICRO_BATCH, router=True).steps
    assert larger_micro_batches(recipe, router=True)
    assert OTHER_SPLIT not in SAME_RESULTS


def test_where_batch_means_are_averaged_evaluations_stay_as_they_are() -> None:
    paper, scores = "eval.mode=paper", "other held-out losses: eval.mode: paper takes the mean of batch means"
    kept = {"train.micro_batch_size": 6, "eval.micro_batch_size": 8}
    assert steps(MICRO_BATCH, paper)[0] == kept
    assert steps(MICRO_BATCH, paper, "eval.micro_batch_size=2")[0] == {"train.micro_batch_size": 6}
    assert steps(EVALUATION, paper, "eval.micro_batch_size=4") == steps(scores, "eval.micro_batch_size=4") == []
    assert steps(scores, paper) == [{"eval.micro_batch_size": size} for size in (4, 2, 1)]
    assert scores not in SAME_RESULTS
    larger = larger_micro_batches(load_recipe("demo", [*BATCHES, paper]).recipe)
    assert larger
    assert all(each["eval.micro_batch_size"] == 8 for each in larger)


def test_offloading_is_for_what_is_recomputed() -> None:
    assert steps(OFFLOADING) == []
    assert steps(OFFLOADING, "train.gradient_checkpointing=2") == [{"train.offload_activations": True}]
    assert steps(OFFLOADING, "train.gradient_checkpointing=true", "train.offload_activations=true") == []


HOST_SUMS = "same results; sums of whole gradients in host memory, and over the bus in every micro-batch"


def test_sums_wait_on_the_host_where_they_are_whole() -> None:
    host = [{"optim.gradient_sums": "host"}]
    assert steps(HOST_SUMS) == steps(HOST_SUMS, "optim.method=lora") == []
    assert steps(HOST_SUMS, "optim.method=full") == steps(HOST_SUMS, "optim.residual=fira") == host
    assert steps(HOST_SUMS, "optim.method=full", "optim.gradient_sums=host") == []
    assert steps(HOST_SUMS, "optim.residual=fira", *AT_ONCE, "train.global_batch_size=8") == []
    assert HOST_SUMS in SAME_RESULTS


TILES = "same results up to rounding; feed-forward networks computed once more, but in recomputed blocks"


def test_tiles_are_for_micro_batches_that_have_several() -> None:
    auto = [{"train.tile_tokens": "auto"}]
    assert steps(TILES, "model.hidden_size=512") == steps(TILES, "model.name_or_path=some/model") == auto
    assert steps(TILES, "model.hidden_size=1024") == steps(TILES, "train.tile_tokens=256") == []
    assert steps(TILES, "model.architecture_of=qwen3-0.6b", "train.micro_batch_size=1") == []
    assert steps(TILES, "model.architecture_of=qwen3-0.6b", "data.max_length=256") == auto
    assert COSTS.index(OFFLOADING) < COSTS.index(TILES) < COSTS.index(HOST_SUMS)
    assert TILES in SAME_RESULTS


def test_an_update_in_the_hook_brings_all_that_it_asks_for() -> None:
    assert steps(IMMEDIATE) == [
        {
            "optim.update": "immediate",
            "optim.refresh": "first-micro-batch",
            "optim.max_grad_norm": None,
            "train.global_batch_size": 8,
        }
    ]


@pytest.mark.parametrize(
    ("name", "refresh"), [("svd, together, in the hook", None), ("immediate svd", "first-micro-batch")]
)
def test_randomized_with_the_refresh_that_goes_with_it(name: str, refresh: str | None) -> None:
    (settings,) = remedy(base(name).recipe, RANDOMIZED).steps
    assert settings == {"optim.proj_type": "randomized", "optim.refresh": refresh}


def test_halved() -> None:
    assert list(halved(100, 12)) == [50, 25, 12]
    assert list(halved(1)) == list(halved(5, 3)) == []


@pytest.mark.parametrize("method", ["full", "galore", "lora"])
def test_a_recipe_that_can_be_changed_no_more(method: str) -> None:
    """All steps one upon the other, again and again, come to an end; and every recipe on the way is one."""
    loaded = load_recipe("demo", [f"optim.method={method}", *BATCHES])
    for _ in range(30):
        found = [changed(loaded, each.steps[-1]) for each in remedies(loaded.recipe)]
        possible = [each for each in found if each is not None]
        loaded = possible[0] if possible else loaded
    assert possible == []


def test_larger_micro_batches_divide_the_global_batch_or_one_near_it() -> None:
    """LLaMA-1B: 24 rows with 504 sequences a step instead of 512; nothing far from what the recipe trains."""
    found = {
        each["train.micro_batch_size"]: each.get("train.global_batch_size", 512)
        for each in larger_micro_batches(load_recipe("llama-1b").recipe)
    }
    assert {32: 512, 64: 512, 512: 512, 20: 520, 24: 504, 28: 504}.items() <= found.items()
    assert list(found) == sorted(found)
    assert min(found) > 16
    assert all(batch % size == 0 and abs(batch - 512) <= 0.05 * 512 for size, batch in found.items())
    odd = larger_micro_batches(load_recipe("demo", [*BATCHES, "train.micro_batch_size=4"]).recipe)
    assert odd[-1] == {"train.micro_batch_size": 24}
    assert {"train.micro_batch_size": 6} in odd
