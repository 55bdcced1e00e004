"""From groups to slots: names are given where there are none, and what cannot be trained so is refused by its name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from galore.trainer.optim import GaLoreAdamW
from galore.trainer.optim.build_slots import named_groups
from galore.trainer.optim.projected import ProjectedSlot


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.ones(shape))


def names(params: Any) -> list[list[str]]:
    return [[name for name, _ in group["params"]] for group in named_groups(params)]


def test_the_nameless_are_numbered_across_groups() -> None:
    one, two, three = (parameter(2) for _ in range(3))
    assert names([one, two]) == [["parameter0", "parameter1"]]
    assert names(iter([("a", one), two])) == [["a", "parameter1"]]
    assert names([{"params": one}, {"params": iter([("b", two), three])}]) == [["parameter0"], ["b", "parameter2"]]
    with pytest.raises(ValueError, match="no parameters to train"):
        names([])


def test_the_callers_groups_are_left_as_they_are() -> None:
    group = {"params": [parameter(2)], "rank": None}
    named_groups([group])
    assert isinstance(group["params"][0], nn.Parameter)  # type: ignore[index]


def test_one_slot_per_parameter_in_order_and_of_its_kind() -> None:
    wide, tall, norm = parameter(4, 6), parameter(8, 3), parameter(5)
    groups = [{"params": [("wide", wide), ("tall", tall)], "rank": 5}, {"params": [("norm", norm)], "rank": None}]
    slots = GaLoreAdamW(groups).slots
    assert list(slots) == [wide, tall, norm]
    assert [(slot.name, isinstance(slot, ProjectedSlot)) for slot in slots.values()] == [
        ("wide", True),
        ("tall", True),
        ("norm", False),
    ]
    assert [slot.rank for slot in slots.values() if isinstance(slot, ProjectedSlot)] == [4, 3]  # the smaller side


@pytest.mark.parametrize(
    ("made", "options", "said"),
    [
        (nn.Parameter(torch.ones(6, 4).t()), {"rank": 2}, "w is not contiguous; keep weights contiguous"),
        (parameter(6), {"rank": 2}, r"w of shape \(6,\) cannot be projected to rank 2"),
        (
            nn.Parameter(torch.ones(4, 6, dtype=torch.int8), requires_grad=False),
            {"rank": None},
            "w is kept in int8, and can only be trained projected: give its group a rank",
        ),
        (parameter(5, 0), {"rank": 2}, r"w of shape \(5, 0\) cannot be projected to rank 2"),
        (
            nn.Parameter(torch.ones(4, 6, dtype=torch.complex64)),
            {},
            r"w is torch.complex64, .*: train its torch.view_as_real",
        ),
        (
            nn.Parameter(torch.ones(4, 6).to(torch.float8_e4m3fn), requires_grad=False),
            {"rank": 2},
            r"w is torch.float8_e4m3fn, .*: convert it, or leave it out",
        ),
        (parameter(6), {"rank": None, "inner": "muon"}, r"w of shape \(6,\) is no matrix, which inner='muon' needs"),
    ],
)
def test_what_cannot_be_trained_so_is_named(made: nn.Parameter, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        GaLoreAdamW([{"params": [("w", made)], **options}])


def test_two_parameters_of_one_name_are_refused() -> None:
    """As of two networks: a state by names would keep one of them."""
    with pytest.raises(ValueError, match=r"two parameters are named '0\.weight'"):
        GaLoreAdamW([("0.weight", parameter(2)), ("0.weight", parameter(3))])
    with pytest.raises(ValueError, match="two parameters are named 'parameter1'"):
        GaLoreAdamW([("parameter1", parameter(2)), parameter(3)])


@pytest.mark.parametrize("options", [{}, {"gradient_sums": "host"}, {"update": "immediate"}])
def test_weights_on_several_devices_are_refused_and_frozen_ones_are_not(options: dict[str, Any]) -> None:
    here, there = parameter(4, 6), nn.Parameter(torch.ones(4, 6, device="meta"))
    groups = [{"params": [("a", here), ("b", there)]}, {"params": [("c", parameter(3))]}]
    with pytest.raises(ValueError, match=r"on 2 devices \(a on cpu, b on meta\), .* load the model onto one device"):
        GaLoreAdamW(groups, **options)
    there.requires_grad_(False)
    assert len(GaLoreAdamW(groups, **options).slots) == 3
    first_of_all = GaLoreAdamW([("b", there), ("a", here)], gradient_sums="host")
    assert first_of_all.host is not None
    assert first_of_all.host.device == here.device


@pytest.mark.parametrize("inner", ["adamw", "adafactor"])
def test_a_parameter_without_a_number_in_it_is_trained_like_any_other(inner: Any) -> None:
    weights = [parameter(0), parameter(0, 3), parameter(3, 0), parameter(2, 3)]
    optimizer = GaLoreAdamW(weights, inner=inner)
    sum(weight.sum() for weight in weights).backward()  # type: ignore[union-attr]
    optimizer.step()
    assert not bool((weights[-1] == 1).any())
