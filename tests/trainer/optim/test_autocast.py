"""The caller's autocast is not the optimizer's: what it computes in backward and step is of its own types."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from galore.kernels.linear import gathering
from galore.trainer.optim import GaLoreAdamW, galore_groups, hand_over_int8, project_in_backward, to_int8

STEPS, ROWS = 4, 6
CASES: dict[str, dict[str, Any]] = {
    "full": {"rank": None},
    "hook": {},
    "svd": {"proj_type": "svd"},
    "power, two passes": {"proj_type": "power", "refresh": "two-pass", "stagger": False},
    "first micro-batch": {"refresh": "first-micro-batch"},
    "dct": {"proj_type": "dct"},
    "random": {"proj_type": "random"},
    "overlap": {"refresh_overlap": 0.3},
    "switch": {"switch": 0.5},
    "int4 projectors": {"projector_dtype": "int4"},
    "fira": {"residual": "fira"},
    "columns": {"residual": "columns"},
    "orthogonal": {"residual": "orthogonal"},
    "4 bits beside": {"residual": "joint-4bit", "inner": "normuon"},
    "in the backward": {"update": "immediate", "max_grad_norm": None},
    **{f"{rule}, full": {"rank": None, "inner": rule} for rule in ("muon", "soap", "racs")},
    **{rule: {"inner": rule} for rule in ("soap", "sumo")},
}


class Casting:
    """Gradients through products in bf16, in which autocast would have anybody's products."""

    def __init__(self, taking: Callable[[nn.Module, GaLoreAdamW], object], **options: Any) -> None:
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(64, 72, bias=False), nn.Tanh(), nn.Linear(72, 64, bias=False))
        rank = options.pop("rank", 6)
        groups = galore_groups(self.net, rank, targets=("0", "2"), inner=options.pop("inner", "adamw"))
        self.optimizer = GaLoreAdamW(groups, **{"lr": 1e-2, "update_proj_gap": 2, "max_grad_norm": 0.1, **options})
        taking(self.net, self.optimizer)

    def loss(self, step: int) -> Tensor:
        x = torch.randn(ROWS, 64, generator=torch.Generator().manual_seed(step))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.net(x).float().square().mean()  # type: ignore[no-any-return]

    def weights(self, beyond: bool) -> dict[str, Tensor]:
        """After some steps, whose backward and update are in autocast, or only their forward is."""
        for step in range(STEPS):
            if self.optimizer.wants_sketch_pass:
                loss = self.loss(step)
                with torch.autocast("cpu", dtype=torch.bfloat16, enabled=beyond), self.optimizer.sketching():
                    loss.backward()  # type: ignore[no-untyped-call]
            loss = self.loss(step)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=beyond):
                loss.backward()  # type: ignore[no-untyped-call]
                self.optimizer.step()
        return {name: each.detach().clone() for name, each in self.net.state_dict().items()}


def same(taking: Callable[[nn.Module, GaLoreAdamW], object], **options: Any) -> bool:
    plain, cast = (Casting(taking, **options).weights(beyond) for beyond in (False, True))
    return all(torch.equal(plain[name], cast[name]) for name in plain)


@pytest.mark.parametrize("case", CASES)
def test_backward_and_step_in_autocast_are_as_outside(case: str) -> None:
    assert same(lambda net, optimizer: None, **CASES[case])


def test_bits_of_products_are_those_of_fp32_whatever_the_caller_lets_them_be() -> None:
    """Nothing is to be seen of it on a CPU that multiplies in fp32 alone."""
    found = []
    for precision in ("highest", "medium"):
        torch.manual_seed(0)
        weight = nn.Parameter(torch.zeros(64, 72))
        optimizer = GaLoreAdamW([{"params": [weight], "rank": 16}], lr=1e-2, proj_type="svd", update_proj_gap=2)
        for _ in range(STEPS):
            weight.grad = torch.randn(64, 72)
            torch.set_float32_matmul_precision(precision)
            try:
                optimizer.step()
            finally:
                torch.set_float32_matmul_precision("highest")
        found.append(weight.detach().clone())
    assert torch.equal(*found)


@pytest.mark.parametrize("case", ["hook", "power, two passes", "first micro-batch", "int4 projectors"])
def test_factors_are_received_as_outside(case: str) -> None:
    assert same(project_in_backward, **CASES[case])


def test_tiles_are_received_as_outside() -> None:
    found = []
    for enabled in (False, True):
        torch.manual_seed(0)
        layer = nn.Linear(64, 72, bias=False)
        optimizer = GaLoreAdamW(galore_groups(layer, 6, targets=[""], inner="soap"), lr=1e-2, update="immediate")
        project_in_backward(layer, optimizer)
        for _ in range(3):
            x = torch.randn(2 * ROWS, 64)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled), gathering(len(x)):
                for tile in x.split(ROWS):
                    with torch.autocast("cpu", dtype=torch.bfloat16):
                        loss = layer(tile).float().square().sum()
                    loss.backward()
            optimizer.step()
        found.append(layer.weight.detach().clone())
    assert torch.equal(*found)


def test_codes_take_their_step_as_outside() -> None:
    found = []
    for beyond in (False, True):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(64, 128, bias=False)).bfloat16()
        to_int8(net[0])
        optimizer = GaLoreAdamW(galore_groups(net, 6, targets=["0"]), lr=1e-2)
        hand_over_int8(net, optimizer)
        for _ in range(STEPS):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=beyond):
                net(torch.randn(ROWS, 64).bfloat16()).float().square().mean().backward()
                optimizer.step()
        found.append(net[0].weight.detach().clone())
    assert torch.equal(*found)


def test_the_closure_of_a_step_keeps_the_autocast_of_its_caller() -> None:
    weight, seen = nn.Parameter(torch.ones(3)), []
    optimizer = GaLoreAdamW([weight], lr=1e-2, max_grad_norm=1.0)

    def closure() -> float:
        seen.append((torch.is_autocast_enabled("cpu"), torch.is_grad_enabled()))
        weight.sum().backward()  # type: ignore[no-untyped-call]
        return 0.0

    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        optimizer.step(closure)
        assert torch.is_autocast_enabled("cpu")
    assert seen == [(True, True)]
