"""The search for the fastest setting on a device that is made up, whose needs and seconds are simple sums."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest

from galore.trainer.common.errors import UserError
from galore.trainer.fit.predict import AGAIN
from galore.trainer.fit.search.axes import combinations, micro_batches
from galore.trainer.fit.search.family import Family, peaks
from galore.trainer.fit.search.fastest import MOST_WHOLE, Fastest, Search, ratio
from galore.trainer.fit.search.places import OnCard, Whole
from galore.trainer.machine.cards import card
from galore.trainer.memory.trace.trace import Allocation, Trace
from galore.trainer.recipe.change import changed
from galore.trainer.recipe.load import LoadedRecipe
from galore.trainer.recipe.schema.recipe import Recipe
from galore.trainer.time.estimate import Estimate, Part, Step

Tiny = Callable[..., LoadedRecipe]
BLOCKS = 6
WEIGHT, KEPT, INPUT, LOGITS = 10, 8, 2, 5  # bytes of a block, of its activations and its input per sequence, and of all
SETTINGS = (f"model.num_hidden_layers={BLOCKS}", "train.global_batch_size=4", "train.micro_batch_size=1")


def again_of(recipe: Recipe) -> int:
    again = recipe.train.gradient_checkpointing
    return recipe.model.num_hidden_layers if again is True else int(again)


def needs(recipe: Recipe) -> int:
    """What is asked for when the last block's forward is done."""
    train, blocks = recipe.train, recipe.model.num_hidden_layers
    weights = WEIGHT * (2 if train.stream_weights else blocks)
    kept = KEPT * (blocks - again_of(recipe)) + INPUT * (0 if train.offload_activations else again_of(recipe))
    return weights + (kept + LOGITS) * train.micro_batch_size


def takes(recipe: Recipe) -> float:
    """Seconds of a step: recomputing costs a third, what crosses the bus a little; many micro-batches cost, too. Fewer
    passes spare a fifth."""
    train, blocks = recipe.train, recipe.model.num_hidden_layers
    each = 3 * blocks + again_of(recipe) + (0.1 * again_of(recipe) if train.offload_activations else 0)
    each += 4 * blocks / train.micro_batch_size if train.stream_weights else 0
    return (train.global_batch_size * each + 20 * train.accumulation) * (0.8 if train.fused else 1.0)


@dataclass
class MadeUp:
    """A device with `limit` bytes; of a whole trace `hidden` more are needed than of few blocks is known."""

    limit: int
    kind: str = "cuda"
    hidden: int = 0
    host: Callable[[LoadedRecipe], tuple[bool, int]] = lambda loaded: (True, 10**6)
    name: str = "a device"
    ram: float = 16
    traced: list[Recipe] = field(default_factory=list)
    wholes: list[Recipe] = field(default_factory=list)

    def trace(self, loaded: LoadedRecipe) -> Trace:
        self.traced.append(loaded.recipe)
        trace = Trace()
        trace.mark("ordinary step: forward")
        size = needs(loaded.recipe)
        trace.born(Allocation(size, size, "weights", "", "made", (size,), "uint8", 0))
        return trace

    def estimate(self, loaded: LoadedRecipe, trace: Trace) -> Estimate:
        part = Part()
        part.add("product", takes(loaded.recipe))
        step, tokens = Step({"forward": part}), loaded.recipe.train.global_batch_size * loaded.recipe.data.max_length
        return Estimate((step, step), None, 0.0, tokens, None, None, "made up")

    def whole(self, loaded: LoadedRecipe) -> Whole:
        self.wholes.append(loaded.recipe)
        total = needs(loaded.recipe) + 7 + self.hidden * bool(loaded.recipe.train.micro_batch_size > 1)
        return Whole(total, total <= self.limit, self.estimate(loaded, Trace()))


def searched(tiny: Tiny, place: MadeUp, *settings: str) -> Fastest:
    return Search(tiny(*SETTINGS, *settings), place).run()


def of_all(loaded: LoadedRecipe, place: MadeUp) -> float:
    """The shortest step of every setting there is that fits, by trying each."""
    best = float("inf")
    for choices in combinations(loaded.recipe, place.kind):
        for choice in choices:
            for again in (False, *range(1, BLOCKS), True):
                other = changed(loaded, {**choice.settings, AGAIN: again})
                if other is not None and place.host(other)[0] and needs(other.recipe) + 7 + place.hidden <= place.limit:
                    best = min(best, takes(other.recipe))
    return best


@pytest.mark.parametrize("limit", [45, 90, 1000])
def test_as_fast_as_the_best_of_all_settings_in_few_traces(tiny: Tiny, limit: int) -> None:
    place = MadeUp(limit)
    found = searched(tiny, place, "train.gradient_checkpointing=true")
    assert found.best.seconds == pytest.approx(of_all(tiny(*SETTINGS), place))
    assert found.best.fits
    assert found.best.total <= limit
    assert found.few == len(place.traced) <= 3 * 6 * 3, "of eight choices beside each micro-batch"
    assert found.whole == len(place.wholes) <= MOST_WHOLE
    assert found.second is None or (found.second.seconds >= found.best.seconds and found.second.total <= limit)
    assert all(each.fits == (each.total <= limit) for each in found.tried)


def test_what_rounds_otherwise_is_told_beside_it(tiny: Tiny) -> None:
    """Fused pieces are faster here, other products are not."""
    found = searched(tiny, MadeUp(1000))
    (told,) = found.rounded
    assert told.settings == {**found.best.settings, "train.fused": "auto"}
    assert told.seconds == pytest.approx(0.8 * found.best.seconds)
    assert "train.fused" not in found.best.settings
    assert found.as_json()["rounded_otherwise"] == [told.as_json()]
    assert searched(tiny, MadeUp(1000), "train.fused=auto").rounded == ()
    assert searched(tiny, MadeUp(1000, kind="cpu")).rounded == ()


def test_what_rounds_otherwise_and_does_not_fit_is_not_told(tiny: Tiny) -> None:
    class Larger(MadeUp):
        def whole(self, loaded: LoadedRecipe) -> Whole:
            found = super().whole(loaded)
            return replace(found, fits=found.fits and not loaded.recipe.train.fused)

    assert searched(tiny, Larger(1000)).rounded == ()


def test_the_mathematics_stays_as_it_is(tiny: Tiny) -> None:
    found = searched(tiny, MadeUp(200))
    execution = {
        "train.micro_batch_size",
        AGAIN,
        "train.offload_activations",
        "train.stream_weights",
        "train.tile_tokens",
    }
    assert all(set(each.settings) <= execution for each in found.tried)


def test_what_does_not_fit_after_all_is_not_proposed(tiny: Tiny) -> None:
    place = MadeUp(125, hidden=16)
    found = searched(tiny, place)
    assert found.best.total <= 125
    assert len(place.wholes) > 3, "one was refused, and made room for the next"
    assert found.best.seconds <= takes(tiny(*SETTINGS, "train.gradient_checkpointing=true").recipe)


def test_the_machine_is_asked_too(tiny: Tiny) -> None:
    """A card that holds nothing unless weights wait on the host, which has no room for them."""
    assert searched(tiny, MadeUp(45)).best.settings["train.stream_weights"] is True
    place = MadeUp(45, host=lambda loaded: (not loaded.recipe.train.stream_weights, 10**6))
    with pytest.raises(UserError, match="nothing tried makes demo fit a device in a machine with 16 GiB") as refused:
        searched(tiny, place)
    assert refused.value.where == "--ram"
    with pytest.raises(UserError, match="nothing tried makes demo fit a device\n") as refused:
        searched(tiny, MadeUp(5, host=lambda loaded: (False, 10**6)))
    assert refused.value.where == "--fastest", "the device holds none of it, whatever the machine"


def test_a_whole_recipe_fits_where_card_and_machine_hold_it(tiny: Tiny) -> None:
    loaded = tiny("train.device=auto")
    assert [OnCard(card("rtx4090"), ram).whole(loaded).fits for ram in (None, 16, 4)] == [True, True, False]


def test_the_recipe_may_be_the_fastest(tiny: Tiny) -> None:
    found = searched(tiny, MadeUp(10**6), "train.micro_batch_size=4")
    assert found.best.settings == {}
    assert found.whole == 4, "and the second best, and two that round otherwise"


def test_the_search_ends_where_a_larger_micro_batch_could_not_be_faster(tiny: Tiny) -> None:
    """Blocks of which all must be computed again, with one sequence; crossing the bus takes longer than that."""
    place = MadeUp(84, host=lambda loaded: (True, 0))
    loaded = tiny(*SETTINGS, "train.global_batch_size=64")
    found = Search(loaded, place).run()
    assert found.ended is not None
    assert found.ended < 64
    assert max(each.train.micro_batch_size for each in place.traced) == found.ended
    assert found.as_json()["micro_batches_tried_up_to"] == found.ended
    assert found.best.fits


def test_seconds_fall_with_the_micro_batch_to_a_floor(tiny: Tiny) -> None:
    """A step of 4 sequences, of 4 or 2 micro-batches at 20 seconds each beside what each sequence takes."""
    bases = [Family(tiny(*SETTINGS), {"train.micro_batch_size": rows}, MadeUp(1000)) for rows in (1, 2)]
    of_sequences = 4 * 4 * BLOCKS
    assert ratio(bases) == pytest.approx(of_sequences / (of_sequences + 40))
    assert ratio(bases[:1]) == 0


def test_a_micro_batch_that_decides_results_stays(tiny: Tiny) -> None:
    assert micro_batches(tiny(*SETTINGS).recipe) == [1, 2, 4]
    assert micro_batches(tiny(*SETTINGS, "train.global_batch_size=60", "train.micro_batch_size=5").recipe) == [
        1, 2, 3, 5, 10, 15, 30, 60,
    ]  # fmt: skip
    assert micro_batches(tiny(*SETTINGS, "optim.refresh=first-micro-batch").recipe) == [1]


def test_held_out_losses_stay_as_they_are(tiny: Tiny) -> None:
    """Those of the paper are of their batches."""
    found = combinations(tiny(*SETTINGS, "eval.mode=paper").recipe, "cpu")
    assert [plain.settings["eval.micro_batch_size"] for plain, *_ in found] == [None, 1, 1]
    assert all(
        "eval.micro_batch_size" not in plain.settings for plain, *_ in combinations(tiny(*SETTINGS).recipe, "cpu")
    )


def test_on_the_cpu_nothing_waits_elsewhere(tiny: Tiny) -> None:
    (choices, *_) = combinations(tiny(*SETTINGS).recipe, "cpu")
    assert [each.settings for each in choices] == [{"train.micro_batch_size": 1, "train.tile_tokens": None}]


def test_what_waits_elsewhere_to_no_avail_is_taken_back_on_the_cpu(tiny: Tiny) -> None:
    waiting = ("train.gradient_checkpointing=true", "train.offload_activations=true", "train.stream_weights=true")
    found = searched(tiny, MadeUp(1000, kind="cpu"), *waiting)
    assert found.best.fits
    assert found.best.settings[AGAIN] is False
    assert [found.best.settings[key] for key in ("train.offload_activations", "train.stream_weights")] == [False] * 2


def test_tiles_are_tried_where_a_micro_batch_has_several(tiny: Tiny) -> None:
    def tiles(*settings: str) -> list[set[object]]:
        rows = combinations(tiny(*SETTINGS, *settings).recipe, "cuda")
        return [{each.settings["train.tile_tokens"] for each in row} for row in rows]

    width = tiny().recipe.model.hidden_size
    assert tiles(f"data.max_length={width // 2}") == [{None}, {None}, {None, "auto"}]
    assert tiles("data.max_length=4", "train.tile_tokens=16") == [{None, 16}] * 3
    (_, tiled, *_) = combinations(tiny(*SETTINGS, "train.tile_tokens=16").recipe, "cpu")[0]
    assert (tiled.on_host, tiled.in_block) == (False, True)


def test_a_choice_that_the_model_refuses_is_left_out(tiny: Tiny) -> None:
    class Refuses(MadeUp):
        def trace(self, loaded: LoadedRecipe) -> Trace:
            if loaded.recipe.train.tile_tokens is not None:
                raise UserError("no part can be tiled", where="train.tile_tokens")
            return super().trace(loaded)

    found = searched(tiny, Refuses(125), "data.max_length=128", "train.gradient_checkpointing=true")
    assert all(each.settings.get("train.tile_tokens") is None for each in found.tried)


def test_settings_that_contradict_the_recipe_are_left_out(tiny: Tiny) -> None:
    found = searched(tiny, MadeUp(1000), "optim.method=lora", "optim.adapter=null")
    assert found.best.fits


def test_a_network_by_name_is_traced_as_a_whole(tiny: Tiny) -> None:
    loaded = tiny("model.architecture_of=smollm2-135m", "train.global_batch_size=1", "train.micro_batch_size=1")
    family = Family(loaded, {"train.micro_batch_size": 1, "train.stream_weights": False}, MadeUp(1000))
    assert (family.blocks, family.traces) == (30, 2)
    assert family.with_blocks(30)[AGAIN] is True


def test_a_model_of_a_file_is_refused(tiny: Tiny) -> None:
    with pytest.raises(UserError, match="dimensions stand in a file"):
        Search(tiny("model.name_or_path=somewhere"), MadeUp(1000)).run()


def test_peaks_are_told_apart_by_where_among_the_blocks_they_are() -> None:
    trace = Trace()
    trace.mark("ordinary step: forward")
    for number, module in enumerate(("embed", "layers.0.mlp", "layers.1.mlp", "layers.2.mlp", "")):
        trace.born(Allocation(10**number, 10**number, "activations", module, "op", (1,), "uint8", number))
    found = {key[1:]: nbytes for key, nbytes in peaks(trace, 2).items()}
    assert found == {
        (): 11111,
        ("computed again", "first"): 11,
        ("computed again", "last"): 111,
        ("all kept", "first"): 1111,
        ("all kept", "last"): 1111,
    }
