"""What an optimizer is made with: every keyword of the declarations, checked, and told to whoever asks."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import random
import re
from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import torch
from torch import nn

from galore.kernels.family import GroupSettings, Options
from galore.trainer.optim import GaLoreAdamW
from galore.trainer.optim.settings import COMPOSITION, FIELDS, NUMBERS, PER_GROUP, OptimizerSettings
from galore.trainer.recipe.schema.optim import OptimSection


def made(rank: int | None = 2, **options: Any) -> GaLoreAdamW:
    return GaLoreAdamW([{"params": [("w", nn.Parameter(torch.ones(6, 8)))], "rank": rank}], **options)


def test_the_keywords_are_the_declared_ones() -> None:
    parameters = inspect.signature(GaLoreAdamW).parameters
    assert list(parameters)[:5] == ["params", "lr", "betas", "eps", "weight_decay"]
    assert set(parameters) == {"params", *FIELDS}
    positional = [each.name for each in parameters.values() if each.kind is not inspect.Parameter.KEYWORD_ONLY]
    assert positional == ["params", "lr", "betas", "eps", "weight_decay"]
    assert {name: each.default for name, each in parameters.items() if name != "params"} == vars(OptimizerSettings())
    with pytest.raises(TypeError, match="'refresh_overlp'"):
        made(refresh_overlp=0.5)
    GaLoreAdamW(params=[nn.Parameter(torch.ones(3))])


def test_help_says_what_each_means_in_the_words_of_python() -> None:
    told = inspect.getdoc(GaLoreAdamW.__init__) or ""
    assert [name for name in FIELDS if f"\n    {name}: " not in told] == []
    assert "None never waits" in told
    assert "null" not in told


def test_a_param_group_holds_the_declared_options_and_no_others() -> None:
    (group,) = made().param_groups
    assert group.keys() == {"params", "param_names", "rank", "clock", *PER_GROUP}
    assert {each.name for each in dataclasses.fields(GroupSettings)} < set(PER_GROUP)
    assert (group["scale"], group["transport"]) == (0.25, "rotate")
    assert made(None).param_groups[0]["scale"] == 1.0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"state_dtype": "int8"}, "state_dtype='int8' in GaLoreAdamW: there are float32, 8bit, fp8, 4bit"),
        ({"refresh": "never"}, "refresh='never' in GaLoreAdamW: there are None, delayed, two-pass, summed, first-"),
        ({"weight_rounding": "up"}, "weight_rounding='up' in GaLoreAdamW: there are stochastic, nearest, compensated"),
        ({"stagger": "yes"}, "stagger='yes' in GaLoreAdamW: it has to be True or False"),
        ({"momentum": -0.1}, "it has to be a finite number from 0 below 1"),
        ({"scale": -1.0}, "it has to be a finite number from 1.17549e-38 up to 3.40282e+38, or None"),
        ({"update_proj_gap": 2**31}, "it has to be a whole number above 0 up to 2,147,483,647"),
        ({"refresh_overlap": 1.5}, "it has to be a finite number above 0 up to 1, or None"),
        ({"betas": (0.9,)}, "they have to be two numbers from 0 below 1"),
        ({"transport": "rotate", "proj_type": "random"}, "transport='rotate' goes from one orthonormal basis"),
        ({"update": "immediate", "refresh": "summed"}, "refresh='summed' cannot"),
        ({"update": "immediate", "accumulation": 2}, "accumulation=2"),
        ({"update": "immediate", "max_grad_norm": 1.0}, "it cannot clip to max_grad_norm=1.0: set max_grad_norm=None"),
        ({"refresh": "two-pass"}, "with stagger=True nearly every step is one: set stagger=False"),
        (
            {"accumulator_dtype": "bfloat16"},
            "it has to be a floating-point dtype of 16 bits or more, such as torch.float32",
        ),
        ({"accumulator_dtype": torch.float8_e4m3fn}, "accumulator_dtype=torch.float8_e4m3fn in GaLoreAdamW"),
        ({"accumulator_dtype": torch.int8}, "accumulator_dtype=torch.int8 in GaLoreAdamW"),
        ({"accumulation": "2"}, "accumulation='2' in GaLoreAdamW: it has to be a whole number from 1"),
        ({"accumulation": 0}, "accumulation=0 in GaLoreAdamW"),
        ({"seed": "1"}, "seed='1' in GaLoreAdamW: it has to be a whole number from 0"),
        ({"seed": -1}, "seed=-1 in GaLoreAdamW"),
        ({"rank": "2"}, "rank='2' in group 0 (w …): it has to be a whole number from 1, a share below 1"),
        (
            {"state_dtype": "4bit"},
            "all groups (1): state_dtype='4bit' is for the momenta of muon, normuon, sumo, scale",
        ),
        ({"inner": "muon", "convention": "reference"}, "which inner='muon' is not"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - the message is compared below
        made(**options)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def drawn(rng: random.Random) -> dict[str, Any]:
    """Every option of the family, each at its default half of the time."""
    few: dict[str, list[Any]] = {
        "stagger": [True, False],
        "update_proj_gap": [3],
        "refresh_overlap": [0.5],
        "scale": [0.5],
        "momentum": [0.9],
        "residual_scale": [0.5],
        "switch": [0.5],
        "sampled_share": [0.5],
    }
    hints = get_type_hints(Options)
    values = {
        each.name: few.get(each.name)
        or [
            None,
            *get_args(next(k for k in (*get_args(hints[each.name]), hints[each.name]) if get_origin(k) is Literal)),
        ]
        for each in dataclasses.fields(Options)
    }
    chosen = {name: rng.choice(known) for name, known in values.items() if rng.random() < 0.5}
    return {name: value for name, value in chosen.items() if value is not None or name in ("refresh", "transport")}


def said(make: Callable[[], object]) -> str | None:
    """What it is refused with, in the words of a recipe; None where it is taken."""
    try:
        make()
    except ValueError as error:  # pydantic's is one, too
        text = next(line for line in str(error).split("\n") if ": " in line or "=" in line)
        text = re.sub(r"(\w+)='?([^'\s,:]+)'?", r"\1: \2", text.replace("None", "null"))
        return re.sub(r"True|False", lambda found: found[0].lower(), text)
    return None


@pytest.mark.parametrize("method", ["galore", "full"])
def test_what_a_recipe_refuses_the_optimizer_refuses_in_the_same_words(method: str) -> None:
    rng = random.Random(method)
    refused = 0
    for _ in range(300):
        options = drawn(rng)
        if method == "full":
            options |= {"residual": "none", "update": "accumulate"}
        norm = rng.choice((None, None, 1.0))
        ours = said(lambda: made(2 if method == "galore" else None, max_grad_norm=norm, **options))  # noqa: B023
        theirs = said(lambda: OptimSection(method=method, max_grad_norm=norm, **options))  # noqa: B023
        assert (ours is None) == (theirs is None), (options, ours, theirs)
        if ours and theirs:
            refused += 1
            assert ours.partition("): ")[2] == theirs.partition("Value error, ")[2].partition(" [type")[0], options
    assert refused > 20


def test_what_contradicts_in_a_subspace_does_not_without_one() -> None:
    made(None, transport="rotate", proj_type="random")
    made(None, refresh="delayed", proj_type="svd")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"lr": "1e-2"}, "lr='1e-2'"),
        ({"lr": 10**400}, "lr=1000"),
        ({"eps": 1e-300}, "eps=1e-300"),
        ({"betas": ("0.9", "0.99")}, "betas"),
        ({"momentum": True}, "momentum=True"),
    ],
)
def test_what_only_looks_like_a_number_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        GaLoreAdamW([nn.Parameter(torch.ones(3))], **options)


def test_numbers_of_numpy_are_as_good_and_become_pythons_own() -> None:
    optimizer = made(
        np.int64(2), seed=np.int64(2**40), lr=np.float32(0.5), update_proj_gap=np.int32(3), proj_type="random"
    )
    optimizer.slots[optimizer.param_groups[0]["params"][0]].parameter.sum().backward()
    optimizer.step()
    (group,) = optimizer.param_groups
    assert [type(each) for each in (optimizer.seed, group["lr"], group["update_proj_gap"], group["rank"])] == [
        int, float, int, int,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (
            "update_proj_gapp",
            "'update_proj_gapp' in group 1 is no option of a param group: did you mean 'update_proj_gap'?",
        ),
        ("lam", "'lam' in group 1 is no option of a param group: a group takes betas, convention"),
        ("state_dtype", "'state_dtype' in group 1 is of all groups: give it to GaLoreAdamW as a keyword"),
    ],
)
def test_an_option_of_a_group_that_would_do_nothing_is_refused(key: str, said: str) -> None:
    groups = [{"params": [nn.Parameter(torch.ones(3))]}, {"params": [nn.Parameter(torch.ones(3))], key: 1}]
    with pytest.raises(ValueError, match=re.escape(said)):
        GaLoreAdamW(groups)
    again = GaLoreAdamW([{"params": [nn.Parameter(torch.ones(3))], "name": "norms", "initial_lr": 0.1}])
    GaLoreAdamW(again.param_groups)


def test_what_is_no_keyword_is_told_of_the_class_with_the_nearest() -> None:
    with pytest.raises(TypeError, match=r"^GaLoreAdamW\(\) got an unexpected .*: did you mean 'refresh_overlap'\?"):
        made(refresh_overlp=0.5)
    with pytest.raises(TypeError, match=r"^GaLoreAdamW\(\) takes from 1 to 5 positional arguments but 7 were given$"):
        GaLoreAdamW([nn.Parameter(torch.ones(3))], 0.1, (0.9, 0.99), 1e-8, 0.0, 1, 2)  # type: ignore[misc, arg-type]


@pytest.mark.parametrize(("state", "said"), [({}, "no param_groups and no state"), ({"state": {}}, "no param_groups")])
def test_a_state_that_is_none_is_refused(state: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        made().load_state_dict(state)


def test_no_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match="there are no parameters to train"):
        GaLoreAdamW([])


def test_a_scale_for_all_counts_where_nothing_is_projected() -> None:
    weights = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(4, 3))]
    assert GaLoreAdamW(weights).param_groups[0]["scale"] == 1.0
    optimizer = GaLoreAdamW([{"params": weights[:1]}, {"params": weights[1:], "scale": 0.5}], lr=1.0, scale=0.25)
    assert [group["scale"] for group in optimizer.param_groups] == [0.25, 0.5]
    weights[0].sum().backward()
    optimizer.step()
    torch.testing.assert_close(weights[0].detach(), torch.full((3,), 0.75))


LATER = {
    "rank": 3, "update_proj_gap": 1, "proj_type": "svd", "side": "left", "refresh_overlap": 0.5, "inner": "muon",
    "transport": "reset", "residual": "fira", "sampled_share": 0.5, "switch": 0.5,
    "projector_dtype": "int8", "convention": "reference",
}  # fmt: skip


@pytest.mark.parametrize("name", COMPOSITION)
def test_what_a_live_group_is_composed_of_cannot_be_changed(name: str) -> None:
    weight = nn.Parameter(torch.ones(4, 6))
    optimizer = GaLoreAdamW([{"params": [("w", weight)], "rank": 2}])
    (group,) = optimizer.param_groups
    before = group[name]
    weight.square().sum().backward()
    group[name] = LATER[name]
    with pytest.raises(
        ValueError, match=f"{name}={LATER[name]!r} in group 0 has no effect, it was made with {before!r}"
    ):
        optimizer.step()
    assert torch.equal(weight, torch.ones(4, 6))
    group[name] = before
    optimizer.step()
    assert optimizer.clock == 1


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_of_a_live_group_may_change(name: str) -> None:
    weight = nn.Parameter(torch.ones(4, 6))
    optimizer = GaLoreAdamW([{"params": [("w", weight)], "rank": 2}])
    optimizer.param_groups[0][name] = (0.8, 0.9) if name == "betas" else 0.5
    weight.square().sum().backward()
    optimizer.step()
    assert optimizer.clock == 1


def test_a_loaded_state_leaves_the_rank_as_it_was_made() -> None:
    weight = nn.Parameter(torch.ones(4, 6))
    saved = GaLoreAdamW([{"params": [("w", weight)], "rank": 0.5}]).state_dict()
    optimizer = GaLoreAdamW([{"params": [("w", weight)], "rank": 2}])
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["rank"] == 2
    weight.square().sum().backward()
    optimizer.step()


def test_a_scale_for_all_is_one_of_the_projected() -> None:
    groups = [{"params": [nn.Parameter(torch.ones(4, 4))], "rank": 2}, {"params": [nn.Parameter(torch.ones(3))]}]
    assert [group["scale"] for group in GaLoreAdamW(groups, scale=0.5).param_groups] == [0.5, 1.0]


def test_a_loaded_state_brings_numbers_that_are_checked_and_no_composition() -> None:
    def made(**options: Any) -> GaLoreAdamW:
        return GaLoreAdamW([{"params": [nn.Parameter(torch.ones(4, 4))], "rank": 2, **options}])

    ours = made(transport="keep", update_proj_gap=7)
    ours.load_state_dict(made(transport="reset", update_proj_gap=3, lr=0.5).state_dict())
    (group,) = ours.param_groups
    assert (group["transport"], group["update_proj_gap"], group["lr"]) == ("keep", 7, 0.5)
    damaged = made().state_dict()
    damaged["param_groups"][0]["betas"] = (2, 2)
    with pytest.raises(ValueError, match="saved group 0"):
        ours.load_state_dict(damaged)


@pytest.mark.parametrize("norm", [-1.0, float("nan")])
def test_a_norm_that_would_turn_the_gradient_is_refused(norm: float) -> None:
    with pytest.raises(ValueError, match="max_norm"):
        GaLoreAdamW([nn.Parameter(torch.ones(3))]).clip_grad_norm_(norm)


def test_a_copy_is_refused_with_what_to_do() -> None:
    with pytest.raises(TypeError, match="load_state_dict into it"):
        copy.deepcopy(made())
