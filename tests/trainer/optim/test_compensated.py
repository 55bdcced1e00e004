"""bf16 weights with 16 more bits: an fp32 weight in all but name."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from galore.kernels.storage.rounding import read_compensated
from galore.trainer.optim import GaLoreAdamW


def gradients(shape: tuple[int, int]) -> list[Tensor]:
    torch.manual_seed(3)
    return [torch.randn(shape).bfloat16() for _ in range(12)]


def trained(parameter: nn.Parameter, rounding: str, rank: int | None) -> GaLoreAdamW:
    group = {"params": [("weight", parameter)], "rank": rank}
    optimizer = GaLoreAdamW([group], lr=1e-4, weight_decay=0.1, weight_rounding=rounding, scale=1.0)  # type: ignore[arg-type]
    for gradient in gradients(tuple(parameter.shape)):  # type: ignore[arg-type]
        parameter.grad = gradient.to(parameter.dtype)
        optimizer.step()
    return optimizer


def test_full_rank_is_bit_for_bit_the_fp32_weight() -> None:
    start = torch.randn(20, 30).bfloat16()
    exact, ours = nn.Parameter(start.float()), nn.Parameter(start.clone())
    trained(exact, "stochastic", None)
    optimizer = trained(ours, "compensated", None)
    (slot,) = optimizer.slots.values()
    assert torch.equal(read_compensated(ours.detach().view(-1), slot.state["compensation"]), exact.detach().view(-1))
    assert slot.planned_bytes()[0] == 2 * 4 * 600 + 2 * 600 == sum(t.nbytes for t in slot.state.values()) - 8


def test_projected_weights_lose_nothing_of_small_updates() -> None:
    start = torch.randn(20, 30).bfloat16()
    exact, ours, nearest = (nn.Parameter(start.to(dtype)) for dtype in (torch.float32, torch.bfloat16, torch.bfloat16))
    trained(exact, "stochastic", 8)
    slot = next(iter(trained(ours, "compensated", 8).slots.values()))
    trained(nearest, "nearest", 8)
    moved = exact.detach() - start.float()
    kept = read_compensated(ours.detach().view(-1), slot.state["compensation"]).view(20, 30) - start.float()
    lost = nearest.detach().float() - start.float()
    assert (kept - moved).norm() < 0.2 * moved.norm()  # the rest is that of bf16 products and bases
    assert (lost - moved).norm() > 0.5 * moved.norm()


@pytest.mark.parametrize("rank", [None, 8])
def test_a_weight_that_comes_to_bf16_later_is_kept_as_one_that_was(rank: int | None) -> None:
    found = []
    for late in (False, True):
        model = nn.Linear(30, 20, bias=False)
        with torch.no_grad():
            model.weight.copy_(torch.randn(20, 30, generator=torch.Generator().manual_seed(1)).bfloat16())
        if not late:
            model.to(torch.bfloat16)
        group = {"params": [("weight", model.weight)], "rank": rank}
        optimizer = GaLoreAdamW([group], lr=1e-4, weight_rounding="compensated")
        model.to(torch.bfloat16)
        for gradient in gradients((20, 30)):
            model.weight.grad = gradient
            optimizer.step()
        (slot,) = optimizer.slots.values()
        optimizer.load_state_dict(optimizer.state_dict())
        found.append((model.weight.detach(), slot.state["compensation"]))
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


def test_fp32_weights_keep_nothing_more() -> None:
    optimizer = trained(nn.Parameter(torch.randn(20, 30)), "compensated", 8)
    assert all("compensation" not in slot.state for slot in optimizer.slots.values())
