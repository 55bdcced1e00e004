"""What an optimizer is made with: every keyword of the declarations, checked, and told to whoever asks."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import re
from typing import Any

import pytest
import torch
from torch import nn

from galore.kernels.family import GroupSettings
from galore.trainer.optim import GaLoreAdamW
from galore.trainer.optim.settings import FIELDS, PER_GROUP, OptimizerSettings


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
        ({"state_dtype": "int8"}, "state_dtype='int8' in GaLoreAdamW: there are float32, 8bit, fp8"),
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
        ({"inner": "muon", "convention": "reference"}, "which inner='muon' is not"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - the message is compared below
        made(**options)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


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
