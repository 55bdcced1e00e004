"""Advice is tried: on cards made so small that a recipe does not fit, what is said to fit does, and nothing in vain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from galore.cli.show.memory import UNFINISHED, _enough, show_advice
from galore.kernels.storage import rounding
from galore.trainer.common.errors import UserError
from galore.trainer.common.format import GIB
from galore.trainer.fit import advice as module
from galore.trainer.fit import ranks
from galore.trainer.fit.advice import Adviser, Trial
from galore.trainer.fit.predict import profile_on
from galore.trainer.fit.remedies import COSTS, Settings, larger_micro_batches, remedy
from galore.trainer.machine.cards import Card
from galore.trainer.memory.profile import Bounds, Profile
from galore.trainer.recipe.change import changed
from galore.trainer.recipe.load import LoadedRecipe, load_recipe
from galore.trainer.recipe.schema.recipe import Recipe

MIB = 2**20
OFFLOADED = ("train.gradient_checkpointing=true", "train.offload_activations=true")
WIDE = (  # a layer of which matrices are the larger part; on meta its size costs nothing
    "model.hidden_size=512",
    "model.intermediate_size=1376",
    "model.num_hidden_layers=1",
    "data.max_length=128",
    "optim.rank=128",
    "train.global_batch_size=8",
    "train.micro_batch_size=8",
)


def card(mib: float) -> Card:
    return Card("a small one", "small", round(mib * MIB), round(mib * MIB), 0, 0, (8, 9), 16, "made up")


@pytest.fixture
def wide(tiny: Callable[..., LoadedRecipe], monkeypatch: pytest.MonkeyPatch) -> Callable[..., LoadedRecipe]:
    monkeypatch.setitem(rounding.BLOCK, "cuda", 2**17)  # else its temporaries were larger than the model
    return lambda *overrides: tiny(*WIDE, *overrides)


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[LoadedRecipe]:
    """The recipes that are traced from now on."""
    seen: list[LoadedRecipe] = []

    def profile(loaded: LoadedRecipe, card: Card, size: int, brief: bool = False) -> Profile:
        if not brief:  # what was found is tried once as a whole
            return profile_on(loaded, card)
        seen.append(loaded)
        return profile_on(loaded, card, brief=brief)

    monkeypatch.setattr(module, "profile_of_one", profile)
    return seen


def fits(loaded: LoadedRecipe, settings: Settings, on: Card, brief: bool = False) -> bool:
    other = changed(loaded, settings)
    return other is not None and profile_on(other, on, brief=brief).fits is True


def test_one_change_is_enough(wide: Callable[..., LoadedRecipe], traced: list[LoadedRecipe]) -> None:
    loaded = wide("optim.method=full")
    on, told = card(88), []
    found = Adviser(loaded, on, told.append).advise()
    assert [trial.cost for trial in found.trials] == sorted((trial.cost for trial in found.trials), key=COSTS.index)
    assert all(trial.gained > 0 for trial in found.trials)
    as_it_is = profile_on(loaded, on, brief=True).total.high
    assert all(trial.gained == as_it_is - trial.profile.total.high for trial in found.trials)

    alone = found.alone
    assert alone is not None
    assert fits(loaded, alone.settings, on)
    (size,) = alone.settings.values()
    assert list(alone.settings) == ["train.micro_batch_size"]
    milder = [step for step in remedy(loaded.recipe, alone.cost).steps if step["train.micro_batch_size"] > size]
    assert not any(fits(loaded, step, on) for step in milder), "the mildest step"
    assert found.settings == alone.settings
    assert found.room == ()

    recipes = [each.recipe for each in traced]
    assert all(recipes.count(recipe) == 1 for recipe in recipes), "each is traced once"
    assert len(told) == len(recipes) - 1, "each is told but the recipe itself"
    assert "train.gradient_checkpointing=True" in told


def test_what_is_found_is_tried_as_a_whole(wide: Callable[..., LoadedRecipe], monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole trace may reserve more than the brief one: then everything is traced as a whole."""
    whole: list[LoadedRecipe] = []

    def profile(loaded: LoadedRecipe, on: Card, size: int, brief: bool = False) -> Profile:
        found = profile_on(loaded, on, brief=brief)
        if not brief:
            whole.append(loaded)
        return replace(found, card=card(70)) if not brief and len(whole) == 1 else found  # the first one does not fit

    monkeypatch.setattr(module, "profile_of_one", profile)
    found = Adviser(wide("optim.method=full"), card(88)).advise()
    assert found.alone is not None
    assert len(whole) > 3


@pytest.mark.parametrize(
    ("gained", "fits", "helps"), [(1, False, True), (0, True, True), (-5, True, True), (0, None, False)]
)
def test_a_change_helps_that_needs_less_or_gets_through(gained: int, fits: bool | None, helps: bool) -> None:
    """Cached memory is given back in time on a full card, so that a run may fit that reserves more on an empty one."""
    profile: Any = SimpleNamespace(fits=fits)
    assert Trial({}, "", profile, gained).helps is helps


def test_several_changes_together_of_which_none_can_be_left_out(wide: Callable[..., LoadedRecipe]) -> None:
    """Each rests on those before: the update in the hook goes with GaLore, and with the micro-batch made smaller."""
    frugal = ("optim.accumulator_dtype=bfloat16", *OFFLOADED, "model.num_hidden_layers=2")
    loaded, on = wide("optim.method=full", *frugal), card(60)
    found = Adviser(loaded, on).advise()
    assert found.alone is None
    settings = [trial.settings for trial in found.mildest]
    assert settings[0] == {"train.micro_batch_size": 1}
    assert {"optim.method": "galore"} in settings
    assert settings[-1]["optim.update"] == "immediate"
    assert settings[-1]["train.global_batch_size"] == 1

    assert fits(loaded, found.settings, on)
    for left_out in settings:
        rest = {key: value for each in settings if each is not left_out for key, value in each.items()}
        assert not fits(loaded, rest, on, brief=True), left_out
    assert [trial.profile.fits for trial in found.mildest] == [False] * (len(settings) - 1) + [True]
    assert [trial.cost for trial in found.mildest] == sorted((trial.cost for trial in found.mildest), key=COSTS.index)
    assert all(trial.gained >= 0 for trial in found.mildest)  # 0: less within the segments that are there


# -- the search itself, on needs that are made up


def adviser(
    monkeypatch: pytest.MonkeyPatch,
    needs: Callable[[Recipe], int],
    room: int,
    *overrides: str,
    ram: float | None = None,
) -> Adviser:
    """Of a recipe that `needs` so much, where there is so much room."""

    def profile(loaded: LoadedRecipe, card: Card, size: int, brief: bool = False) -> Any:
        needed = needs(loaded.recipe)
        return SimpleNamespace(total=Bounds(needed, needed), fits=needed <= room)

    monkeypatch.setattr(module, "profile_of_one", profile)
    batches = ("train.global_batch_size=64", "train.micro_batch_size=64")
    return Adviser(load_recipe("demo", [*batches, *overrides]), card(1), ram=ram)


def test_what_waits_on_the_host_is_to_fit_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of weights are more than it has, which the card has no room for, or some of them."""

    def needs(recipe: Recipe) -> int:
        return smaller((recipe.train.stream_weights is not False, 30), (recipe.optim.state_dtype == "8bit", 30))

    def host(loaded: LoadedRecipe, size: int) -> Any:
        return SimpleNamespace(fits=lambda ram: ram >= (16 if loaded.recipe.train.stream_weights else 4))

    monkeypatch.setattr(module, "host_of_all", host)
    settings = ("model.num_hidden_layers=4",)
    assert adviser(monkeypatch, needs, 75, *settings, ram=16).advise().settings == {"train.stream_weights": True}
    found = adviser(monkeypatch, needs, 75, *settings, ram=8).advise()
    assert found.settings == {"optim.state_dtype": "8bit"}
    (refused,) = [trial for trial in found.trials if "train.stream_weights" in trial.settings]
    assert (refused.profile.fits, refused.profile.on_host) == (False, False)
    assert adviser(monkeypatch, needs, 100, *settings, "train.stream_weights=true", ram=8).advise().settings == {}
    assert adviser(monkeypatch, needs, 75, *settings, ram=3).advise().settings == {}


@pytest.mark.parametrize("fitting", [32, 16, 8, 4, 2, 1])
def test_the_mildest_step_that_fits_is_found(monkeypatch: pytest.MonkeyPatch, fitting: int) -> None:
    found = adviser(monkeypatch, lambda recipe: recipe.train.micro_batch_size, fitting).advise()
    assert found.settings == {"train.micro_batch_size": fitting}
    assert [trial.gained for trial in found.mildest] == [64 - fitting]


def test_a_change_that_turns_out_not_to_be_needed_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A smaller micro-batch comes first and gains little; with what comes after it, it need not have been."""

    def needs(recipe: Recipe) -> int:
        smaller, in_bytes = recipe.train.micro_batch_size < 64, recipe.optim.state_dtype == "8bit"
        return 100 - 1 * smaller - 10 * (recipe.train.gradient_checkpointing is True) - 20 * in_bytes

    found = adviser(monkeypatch, needs, 70).advise()
    assert found.settings == {"train.gradient_checkpointing": True, "optim.state_dtype": "8bit"}
    assert [trial.gained for trial in found.mildest] == [10, 20]
    assert found.alone is None


def test_tiles_are_a_remedy_and_a_model_that_refuses_them_has_others(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ("model.hidden_size=64", "train.gradient_checkpointing=true", "train.offload_activations=true")

    def needs(recipe: Recipe) -> int:
        return smaller((recipe.train.tile_tokens == "auto", 30), (recipe.train.stream_weights is True, 30))

    assert adviser(monkeypatch, needs, 75, *settings).advise().settings == {"train.tile_tokens": "auto"}

    def refuses(recipe: Recipe) -> int:
        if recipe.train.tile_tokens is not None:
            raise UserError("nothing can be tiled", where="train.tile_tokens")
        return needs(recipe)

    assert adviser(monkeypatch, refuses, 75, *settings).advise().settings == {"train.stream_weights": True}

    def broken(recipe: Recipe) -> int:
        raise UserError("it cannot be traced", where="model")

    with pytest.raises(UserError, match="cannot be traced"):
        adviser(monkeypatch, broken, 75, *settings)


def test_where_nothing_helps_nothing_is_recommended(monkeypatch: pytest.MonkeyPatch) -> None:
    found = adviser(monkeypatch, lambda recipe: 100 + recipe.train.micro_batch_size, 99).advise()
    assert (found.alone, found.mildest, found.settings, found.room) == (None, (), {}, ())
    assert [(trial.settings, trial.gained, trial.profile.fits) for trial in found.trials] == [
        ({"train.micro_batch_size": 1}, 63, False)
    ]


def test_what_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the batch and the model's positions, or as far as the card goes."""

    def needs(recipe: Recipe) -> int:
        return recipe.train.micro_batch_size * recipe.data.max_length

    settings = ("train.micro_batch_size=4", "data.max_length=32", "model.max_position_embeddings=200")
    for room, expected in (
        (10**6, ({"train.micro_batch_size": 64}, {"data.max_length": 128})),
        (8 * 32 + 31, ({"train.micro_batch_size": 8}, {"data.max_length": 64})),
        (7 * 32, ({"train.micro_batch_size": 7, "train.global_batch_size": 63},)),
        (4 * 32 + 31, ()),
    ):
        found = adviser(monkeypatch, needs, room, *settings).advise()
        assert found.room == expected
        assert found.positions is None
        assert (found.trials, found.mildest, found.alone, found.settings) == ((), (), None, {})


def test_a_length_that_the_positions_bound_is_said_to_be_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ("train.micro_batch_size=64", "data.max_length=128", "model.max_position_embeddings=200")
    found = adviser(monkeypatch, lambda _: 1, 2, *settings).advise()
    assert (found.room, found.positions) == ((), 200)
    show_advice(Console(), found)
    told = "No larger micro-batch and no longer sequence is possible within model.max_position_embeddings=200."
    assert capsys.readouterr().out.split() == told.split()


@pytest.mark.parametrize(
    ("now", "room", "expected"),
    [
        ("true", 100, False),
        ("true", 84, 16),
        ("true", 85, 16),
        ("true", 71, {}),
        ("20", 84, 16),
        ("16", 84, {}),
        ("false", 100, {}),
    ],
)
def test_no_more_blocks_need_be_recomputed_than_make_it_fit(
    monkeypatch: pytest.MonkeyPatch, now: str, room: int, expected: object
) -> None:
    """Of 32 blocks each takes one, until it is recomputed; steps are eighths of them."""

    def needs(recipe: Recipe) -> int:
        blocks = recipe.train.gradient_checkpointing
        larger = recipe.train.micro_batch_size > 64 or recipe.data.max_length > 128
        return 100 - (32 if blocks is True else int(blocks)) + 100 * larger

    settings = (f"train.gradient_checkpointing={now}", "model.num_hidden_layers=32", "data.max_length=128")
    found = adviser(monkeypatch, needs, room, *settings).advise()
    assert found.room == (() if expected == {} else ({"train.gradient_checkpointing": expected},))


@pytest.mark.parametrize("now", [1, 3, 16, 64])
@pytest.mark.parametrize("batch", [64, 192, 504, 512])
def test_the_largest_micro_batches_are_found_in_few_traces(
    monkeypatch: pytest.MonkeyPatch, now: int, batch: int
) -> None:
    """Against trying all of them; a micro-batch that is found is one that was tried."""
    if batch % now:
        pytest.skip("no recipe")
    settings = (
        "model.max_position_embeddings=128",
        f"train.global_batch_size={batch}",
        f"train.micro_batch_size={now}",
    )
    tried: list[int] = []

    def needs(recipe: Recipe) -> int:
        tried.append(recipe.train.micro_batch_size)
        return recipe.train.micro_batch_size

    every = larger_micro_batches(load_recipe("demo", list(settings)).recipe)
    for room in (now, now + 1, 2 * now + 1, 24, 31, 100, batch - 1, batch):
        tried.clear()
        steps = [each for each in every if each["train.micro_batch_size"] <= max(room, now)]
        dividing = [each for each in steps if len(each) == 1]
        expected = dividing[-1:] + [each for each in steps[-1:] if each not in dividing]
        found = adviser(monkeypatch, needs, max(room, now), *settings).advise()
        assert list(found.room) == expected
        assert {each["train.micro_batch_size"] for each in expected} <= set(tried)
        assert len(tried) <= 2 + (batch // now).bit_length() + 4


def test_of_several_processes_each_has_its_share_of_the_batch_and_nothing_they_cannot_share(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = ("train.global_batch_size=64", "train.micro_batch_size=4", "model.max_position_embeddings=64")
    loaded, rows = load_recipe("demo", [*settings, "data.max_length=64"]), list[int]()

    def fitting(most: int) -> None:
        def profile(one: LoadedRecipe, card: Card, *, brief: bool = False, ranks: int = 1) -> Any:
            train = one.recipe.train
            assert (ranks, train.global_batch_size) == (4, 16)
            assert one.recipe.optim.update == "accumulate"
            assert not train.stream_weights
            rows.append(train.micro_batch_size)
            return SimpleNamespace(total=Bounds(rows[-1], rows[-1]), fits=rows[-1] <= most)

        monkeypatch.setattr(ranks, "profile_on", profile)

    fitting(100)
    assert Adviser(loaded, card(1), processes=4).advise().room == ({"train.micro_batch_size": 16},)
    assert max(rows) == 16
    fitting(2)
    assert Adviser(loaded, card(1), processes=4).advise().settings == {"train.micro_batch_size": 2}


def smaller(*gains: tuple[bool, int]) -> int:
    return 100 - sum(gain for taken, gain in gains if taken)


def test_one_change_is_preferred_to_several_milder_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    def needs(recipe: Recipe) -> int:
        return smaller(
            (recipe.eval.micro_batch_size == 1, 20),
            (recipe.train.micro_batch_size == 1, 20),
            (recipe.train.gradient_checkpointing is True, 50),
        )

    found = adviser(monkeypatch, needs, 65, "eval.micro_batch_size=2").advise()
    assert [list(trial.settings) for trial in found.mildest] == [["eval.micro_batch_size"], ["train.micro_batch_size"]]
    assert found.settings == {"train.gradient_checkpointing": True}
    assert list(_enough(found)) == [
        "Each of them milder, but several: eval.micro_batch_size=1 train.micro_batch_size=1 (0.00 GiB in total)",
        "One change is enough: train.gradient_checkpointing=true (0.00 GiB in total)",
    ]


def test_several_that_alter_nothing_are_preferred_to_one_that_does(monkeypatch: pytest.MonkeyPatch) -> None:
    def needs(recipe: Recipe) -> int:
        return GIB * smaller(
            (recipe.train.micro_batch_size == 1, 20),
            (recipe.train.gradient_checkpointing is True, 20),
            (recipe.optim.state_dtype == "8bit", 50),
        )

    found = adviser(monkeypatch, needs, 65 * GIB).advise()
    assert found.alone is not None
    assert found.alone.settings == {"optim.state_dtype": "8bit"}
    assert found.settings == {"train.micro_batch_size": 1, "train.gradient_checkpointing": True}
    told = list(_enough(found))
    assert told[0].endswith("alters what is computed: optim.state_dtype=8bit (50.00 GiB in total)")
    assert told[1].endswith("train.micro_batch_size=1 train.gradient_checkpointing=true (60.00 GiB in total)")


def test_a_search_whose_time_is_over_tells_what_was_tried(
    wide: Callable[..., LoadedRecipe], traced: list[LoadedRecipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, on = wide("optim.method=full"), card(30)
    assert not profile_on(loaded, on, brief=True).fits
    clock = iter(range(100))
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    found = Adviser(loaded, on, until=0).advise()  # one trace, the recipe's own apart
    assert found.unfinished
    assert len(traced) == 2
    assert (found.mildest, found.room) == ((), ())
    assert [*_enough(found)] == [UNFINISHED]
