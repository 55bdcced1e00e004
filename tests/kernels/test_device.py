"""`meta` stands for the device that is being simulated, in the backward as well, and for nothing afterwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from galore.kernels.device import LEADING, device_type, meta_stands_for, rounds, standing_for, stands_for


def test_devices_are_what_they_are() -> None:
    assert device_type(torch.ones(1)) == device_type("cpu") == device_type(torch.device("cpu")) == "cpu"
    assert device_type("cuda:1") == "cuda"
    assert device_type("meta") == device_type(torch.ones(1, device="meta")) == "meta"


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_meta_stands_for_another(kind: str) -> None:
    with meta_stands_for(kind):
        assert (
            device_type("meta")
            == device_type(torch.device("meta"))
            == device_type(torch.ones(1, device="meta"))
            == kind
        )
        assert device_type(torch.ones(1)) == "cpu"
        assert device_type("cuda") == "cuda"
    assert device_type("meta") == "meta"


def test_the_innermost_counts_and_an_error_ends_it() -> None:
    with meta_stands_for("cpu"):
        with pytest.raises(ZeroDivisionError), meta_stands_for("cuda"):
            _ = 1 / (device_type("meta") != "cuda")
        assert device_type("meta") == "cpu"
    assert device_type("meta") == "meta"


class Asking(torch.autograd.Function):
    seen: list[str] = []  # noqa: RUF012

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Tensor:
        Asking.seen.append(device_type(grads[0]))
        result: Tensor = grads[0] * 2
        return result


def test_also_in_the_backward_wherever_it_runs() -> None:
    Asking.seen.clear()
    with meta_stands_for("cuda"):
        Asking.apply(torch.ones(2, device="meta", requires_grad=True)).sum().backward()
    assert Asking.seen == ["cuda"]


def test_of_a_loop_on_meta_one_round_stands_for_those_alike() -> None:
    x, starts = torch.ones(1, device="meta"), range(0, 100, 7)
    assert list(rounds(torch.ones(1), starts)) == list(starts)
    passed = [(start, stands_for()) for start in rounds(x, starts)]
    assert passed == [
        *((start, 1) for start in starts[:LEADING]),
        (starts[LEADING], len(starts) - LEADING - 1),
        (starts[-1], 1),
    ]
    assert list(rounds(x, starts[: LEADING + 2])) == list(starts[: LEADING + 2])
    assert stands_for() == 1


def test_how_often_is_asked_for_when_something_is_done() -> None:
    often = 2
    with standing_for(lambda: often), standing_for(lambda: 3):
        assert stands_for() == 6
        often = 5
        assert stands_for() == 15
    assert stands_for() == 1
