"""What comes from outside the subspace: full rank, micro-batches, clipping and gradients that are not finite. Equations: test_presets."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from galore.kernels.storage import rounding
from galore.trainer.optim import GaLoreAdamW
from galore.trainer.optim.projected import ProjectedSlot

STEPS, GAP, RANK, LR, BETAS, EPS, DECAY = 4, 7, 5, 1e-2, (0.9, 0.99), 1e-8, 0.1


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(rounding.BLOCK, "cpu", 64)  # so that a weight is several row blocks


def optimizer_for(parameter: nn.Parameter, **options: Any) -> GaLoreAdamW:
    defaults = {"betas": BETAS, "eps": EPS, "weight_decay": DECAY, "update_proj_gap": GAP, "stagger": False, "seed": 3}
    group = {"params": [("weight", parameter)], "rank": options.pop("rank", RANK)}
    if options.get("residual") in ("sampled", "joint", "joint-4bit"):
        options.setdefault("inner", "muon")
    return GaLoreAdamW([group], lr=LR, **{**defaults, **options})


def gradients(shape: tuple[int, int]) -> list[Tensor]:
    """Of a leading subspace that turns slowly, over noise."""
    torch.manual_seed(1)
    left, right = torch.randn(shape[0], 6), torch.randn(6, shape[1])
    found = []
    for _ in range(STEPS):
        left = left + 0.1 * torch.randn_like(left)
        found.append(left @ right + 0.5 * torch.randn(shape))
    return found


@pytest.mark.parametrize("outside", ["frugal", "columns", "alice", "orthogonal"])
def test_frugal_adds_no_signs_of_rounding_noise_at_full_rank(outside: str) -> None:
    """Nor do the rules that take their place make something of it."""
    results = []
    for residual in (outside, "none"):
        parameter = nn.Parameter(torch.ones(RANK, 20))
        optimizer = optimizer_for(parameter, residual=residual, proj_type="svd", scale=1.0)
        parameter.grad = gradients((RANK, 20))[0]
        optimizer.step()
        results.append(parameter.detach())
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("shape", [(RANK, 20), (20, RANK)])
@pytest.mark.parametrize("inner", ["muon", "normuon"])
def test_a_momentum_of_full_rank_is_the_rule_itself(inner: str, shape: tuple[int, int]) -> None:
    results = []
    for options in ({"residual": "joint", "proj_type": "svd", "scale": 1.0}, {"rank": None}):
        parameter = nn.Parameter(torch.ones(shape))
        optimizer = optimizer_for(parameter, inner=inner, **options)
        for gradient in gradients(shape):
            parameter.grad = gradient
            optimizer.step()
        results.append(parameter.detach())
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("shape", [(8, 20), (20, 8)])
@pytest.mark.parametrize("transport", ["rotate", "keep", "reset"])
def test_a_momentum_in_two_parts_is_whole_however_a_basis_turns(transport: str, shape: tuple[int, int]) -> None:
    """The part outside has 32 bits here, as of every small weight."""
    turning = {"residual": "joint-4bit", "transport": transport, "update_proj_gap": 1, "proj_type": "svd"}
    results = []
    for options in ({**turning, "scale": 1.0}, {"rank": None}):
        parameter = nn.Parameter(torch.ones(shape))
        optimizer = optimizer_for(parameter, inner="normuon", **options)
        for step, gradient in enumerate(gradients(shape)):
            parameter.grad = gradient
            optimizer.clip_grad_norm_(1.0 + step)
            optimizer.step()
        results.append(parameter.detach())
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "residual", ["sampled", "fira", "apollo", "frugal", "columns", "alice", "orthogonal", "joint", "joint-4bit"]
)
def test_micro_batches_are_summed_before_anything_is_done(residual: str) -> None:
    def trained(parts: int) -> Tensor:
        parameter = nn.Parameter(torch.ones(8, 20))
        optimizer = optimizer_for(parameter, residual=residual, proj_type="svd")
        for gradient in gradients((8, 20)):
            for part in gradient.split(20 // parts, dim=1):
                padded = torch.zeros(8, 20)
                at = 0 if part.data_ptr() == gradient.data_ptr() else 20 - part.shape[1]
                padded[:, at : at + part.shape[1]] = part
                (parameter * padded).sum().backward()
            optimizer.clip_grad_norm_(1.0)
            optimizer.step()
        return parameter.detach()

    torch.testing.assert_close(trained(1), trained(2))


@pytest.mark.parametrize("residual", ["fira", "frugal", "columns", "alice", "orthogonal", "joint", "joint-4bit"])
def test_clipping_scales_the_residual_as_well(residual: str) -> None:
    """Adam does not see the scale of its gradients, so a step of clipped ones is that of the others, limiter included."""
    results = []
    for factor, clip in ((1.0, None), (100.0, 1e3)):
        parameter = nn.Parameter(torch.ones(8, 20))
        optimizer = optimizer_for(parameter, residual=residual, proj_type="svd", eps=1e-30)
        for gradient in gradients((8, 20))[:3]:
            parameter.grad = gradient * factor
            norm = optimizer.clip_grad_norm_(None if clip is None else float(gradient.norm()))
            assert norm == pytest.approx(float(gradient.norm()) * factor, rel=1e-5)
            optimizer.step()
        results.append(parameter.detach())
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


def test_a_gradient_that_is_not_finite_costs_the_step_only() -> None:
    parameter = nn.Parameter(torch.ones(8, 20))
    optimizer = optimizer_for(parameter, residual="fira", proj_type="svd")
    parameter.grad = torch.full((8, 20), torch.nan)
    optimizer.step()
    assert optimizer.report is not None
    assert optimizer.report.skipped
    assert torch.equal(parameter, torch.ones(8, 20))
    (slot,) = optimizer.projected
    assert isinstance(slot, ProjectedSlot)
    assert not slot.state


def test_the_whole_summed_gradient_is_held_until_the_step() -> None:
    parameter = nn.Parameter(torch.ones(8, 20))
    optimizer = optimizer_for(parameter, residual="fira", proj_type="svd")
    parameter.grad = gradients((8, 20))[0]
    optimizer.clip_grad_norm_(None)
    assert optimizer.memory_by_category()["gradients"] == 8 * 20 * 4
    optimizer.step()
    assert optimizer.memory_by_category()["gradients"] == 0


def test_a_new_direction_is_completed_in_the_size_of_clipped_gradients() -> None:
    """Adam does not see that size, so that a run of clipped gradients is that of the others, over a refresh too."""
    results = []
    for factor, clip in ((1.0, None), (100.0, 1.0)):
        parameter = nn.Parameter(torch.ones(8, 20))
        options = {
            "residual": "columns",
            "transport": "complete",
            "proj_type": "svd",
            "eps": 1e-30,
            "update_proj_gap": 2,
        }
        optimizer = optimizer_for(parameter, **options)
        for gradient in gradients((8, 20)):
            parameter.grad = gradient * factor
            optimizer.clip_grad_norm_(None if clip is None else float(gradient.norm()))
            optimizer.step()
        results.append(parameter.detach())
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("residual", ["columns", "alice"])
def test_rounding_of_bf16_is_no_direction(residual):
    """Of gradients whose rank is that of the subspace nothing is left over but noise."""
    moved = {}
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(0)
        start = torch.zeros(96, 128, dtype=dtype)
        weight = nn.Parameter(start.clone())
        optimizer = GaLoreAdamW([{"params": [weight], "rank": 8, "residual": residual}], lr=1e-2, proj_type="svd")
        left, right = torch.randn(96, 8), torch.randn(8, 128)
        for _ in range(3):
            weight.grad = (left @ right).to(dtype)
            optimizer.step()
        p = torch.linalg.qr(left).Q
        outside = weight.detach().float() - p @ (p.T @ weight.detach().float())
        moved[dtype] = float(outside.norm())
    plain = 3 * 1e-2 * 0.25 * (128 * 88) ** 0.5  # where every column has norm √(a-r)
    assert moved[torch.bfloat16] < 0.35 * plain
