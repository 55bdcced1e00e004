"""Fira, APOLLO, FRUGAL and the moments' transport against float64 statements of their equations, across refreshes."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from galore.kernels import rounding
from galore.trainer.optim import GaLoreAdamW
from galore.trainer.optim.projected import ProjectedSlot

STEPS, GAP, RANK, LR, BETAS, EPS, DECAY = 20, 7, 5, 1e-2, (0.9, 0.99), 1e-8, 0.1
SHAPES = [(12, 30), (30, 12), (16, 16)]


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(rounding.BLOCK, "cpu", 64)  # so that a weight is several row blocks


def optimizer_for(parameter: nn.Parameter, **options: Any) -> GaLoreAdamW:
    defaults = {"betas": BETAS, "eps": EPS, "weight_decay": DECAY, "update_proj_gap": GAP, "stagger": False, "seed": 3}
    group = {"params": [("weight", parameter)], "rank": RANK}
    return GaLoreAdamW([group], lr=LR, **{**defaults, **options})


def gradients(shape: tuple[int, int]) -> list[Tensor]:
    """Of a leading subspace that turns slowly, over noise."""
    torch.manual_seed(1)
    left, right = torch.randn(shape[0], 6), torch.randn(6, shape[1])
    found = []
    for step in range(STEPS):
        left = left + 0.1 * torch.randn_like(left)
        found.append((left @ right + 0.5 * torch.randn(shape)) * (4.0 if step == 9 else 1.0))
    return found


class Statement:
    """One weight in float64, oriented (a, b); the bases are those that the optimizer found."""

    def __init__(self, weight: Tensor, residual: str, transport: str, scale: float) -> None:
        self.w, self.residual, self.transport, self.scale = weight.double(), residual, transport, scale
        self.m = self.v = torch.zeros(RANK, weight.shape[1], dtype=torch.float64)
        self.p: Tensor | None = None
        self.t, self.norm = 0, 0.0

    def step(self, g: Tensor, p: Tensor) -> None:
        g, p = g.double(), p.double()
        if self.p is not None and not torch.equal(p, self.p):
            self.carry(p.T @ self.p)
        self.p, self.t = p, self.t + 1
        r = p.T @ g
        self.m = BETAS[0] * self.m + (1 - BETAS[0]) * r
        self.v = BETAS[1] * self.v + (1 - BETAS[1]) * r**2
        m_hat, v_hat = self.m / (1 - BETAS[0] ** self.t), self.v / (1 - BETAS[1] ** self.t)
        n = m_hat / (v_hat.sqrt() + EPS)
        self.w = (1 - LR * DECAY) * self.w - LR * self.scale * self.update(g, p, r, n)

    def update(self, g: Tensor, p: Tensor, r: Tensor, n: Tensor) -> Tensor:
        if self.residual == "none":
            return p @ n
        if self.residual == "frugal":
            return p @ n + torch.sign(g - p @ r)
        if self.residual == "apollo-mini":
            return 128**0.5 * self.limited(g * n.norm() / r.norm())
        ratio = n.norm(dim=0) / r.norm(dim=0)
        return self.limited(g * ratio) if self.residual == "apollo" else p @ n + self.limited((g - p @ r) * ratio)

    def limited(self, s: Tensor) -> Tensor:
        if 0 < 1.01 * self.norm < float(s.norm()):
            s = s * (1.01 * self.norm / s.norm())
        self.norm = float(s.norm())
        return s

    def carry(self, c: Tensor) -> None:
        if self.transport == "reset":
            self.m, self.v, self.t = torch.zeros_like(self.m), torch.zeros_like(self.v), 0
        if self.transport == "rotate":
            first, second = 1 - BETAS[0] ** self.t, 1 - BETAS[1] ** self.t
            m_hat, v_hat = self.m / first, self.v / second
            self.m = c @ self.m
            self.v = second * (c**2 @ (v_hat - m_hat**2) + (c @ m_hat) ** 2).abs()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("residual", "transport", "proj_type", "scale"),
    [
        ("none", "keep", "svd", 0.25),
        ("none", "reset", "svd", 0.25),
        ("none", "rotate", "svd", 0.25),
        ("none", "keep", "random", 0.25),
        ("fira", "keep", "svd", 0.25),
        ("apollo", "keep", "random", 1.0),
        ("apollo-mini", "keep", "random", 1.0),
        ("frugal", "reset", "svd", 1.0),
    ],
)
def test_twenty_steps_equal_the_papers_equations(
    shape: tuple[int, int], residual: str, transport: str, proj_type: str, scale: float
) -> None:
    parameter = nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    turned = shape[0] >= shape[1]
    start = parameter.detach().clone()
    optimizer = optimizer_for(parameter, residual=residual, transport=transport, proj_type=proj_type)
    statement = Statement(start.T if turned else start, residual, transport, scale)
    (slot,) = optimizer.projected
    bases = []
    for gradient in gradients(shape):
        parameter.grad = gradient.clone()
        basis = slot.projector.clone() if proj_type == "random" else None  # before the clock moves on
        optimizer.step()
        basis = slot.projector.clone() if basis is None else basis
        bases.append(basis)
        statement.step(gradient.T if turned else gradient, basis)
    moved = (statement.w - (start.T if turned else start).double()).norm()
    error = (statement.w - (parameter.T if turned else parameter).double()).norm() / moved
    assert error < 5e-5  # Adam divides small entries of R, with their fp32 rounding, by their own size
    assert sum(not torch.equal(a, b) for a, b in itertools.pairwise(bases)) == 2  # steps 7 and 14


def test_frugal_adds_no_signs_of_rounding_noise_at_full_rank() -> None:
    results = []
    for residual in ("frugal", "none"):
        parameter = nn.Parameter(torch.ones(RANK, 20))
        optimizer = optimizer_for(parameter, residual=residual, proj_type="svd", scale=1.0)
        parameter.grad = gradients((RANK, 20))[0]
        optimizer.step()
        results.append(parameter.detach())
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("residual", ["fira", "apollo", "frugal"])
def test_micro_batches_are_summed_before_anything_is_done(residual: str) -> None:
    def trained(parts: int) -> Tensor:
        parameter = nn.Parameter(torch.ones(8, 20))
        optimizer = optimizer_for(parameter, residual=residual, proj_type="svd")
        for gradient in gradients((8, 20))[:4]:
            for part in gradient.split(20 // parts, dim=1):
                padded = torch.zeros(8, 20)
                at = 0 if part.data_ptr() == gradient.data_ptr() else 20 - part.shape[1]
                padded[:, at : at + part.shape[1]] = part
                (parameter * padded).sum().backward()
            optimizer.clip_grad_norm_(1.0)
            optimizer.step()
        return parameter.detach()

    torch.testing.assert_close(trained(1), trained(2))


def test_clipping_scales_the_residual_as_well() -> None:
    """Adam does not see the scale of its gradients, so a step of clipped ones is that of the others, limiter included."""
    results = []
    for factor, clip in ((1.0, None), (100.0, 1e3)):
        parameter = nn.Parameter(torch.ones(8, 20))
        optimizer = optimizer_for(parameter, residual="fira", proj_type="svd", eps=0.0)
        for gradient in gradients((8, 20))[:3]:
            parameter.grad = gradient * factor
            norm = optimizer.clip_grad_norm_(None if clip is None else float(gradient.norm()))
            assert norm == pytest.approx(float(gradient.norm()) * factor, rel=1e-5)
            optimizer.step()
        results.append(parameter.detach())
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


def test_a_random_basis_is_not_kept_and_changes_with_the_gap_alone() -> None:
    parameter = nn.Parameter(torch.ones(8, 20))
    optimizer = optimizer_for(parameter, proj_type="random")
    (slot,) = optimizer.projected
    assert slot.planned_bytes() == (2 * RANK * 20 * 4, 0)
    for gradient in gradients((8, 20))[:3]:
        parameter.grad = gradient
        optimizer.step()
    assert set(slot.state) == {"step", "exp_avg", "exp_avg_sq"}
    assert optimizer.memory_by_category()["projectors"] == 0


@pytest.mark.parametrize("residual", ["fira", "apollo", "frugal"])
def test_state_resumes_bit_exactly(residual: str) -> None:
    def run(broken: bool) -> Tensor:
        parameter = nn.Parameter(torch.ones(8, 20))
        optimizer = optimizer_for(parameter, residual=residual, proj_type="random", state_dtype="float32")
        for step, gradient in enumerate(gradients((8, 20))[:10]):
            if broken and step == 5:
                tensors = {name: tensor.clone() for name, tensor in optimizer.state_tensors().items()}
                optimizer.release()
                parameter = nn.Parameter(parameter.detach().clone())
                optimizer = optimizer_for(parameter, residual=residual, proj_type="random", state_dtype="float32")
                optimizer.load_state_tensors(tensors, clock=5)
            parameter.grad = gradient
            optimizer.step()
        return parameter.detach()

    assert torch.equal(run(False), run(True))


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


def test_bytes_are_those_of_the_formula() -> None:
    parameter = nn.Parameter(torch.ones(8, 20))
    optimizer = optimizer_for(parameter, residual="fira", proj_type="svd")
    parameter.grad = gradients((8, 20))[0]
    optimizer.clip_grad_norm_(None)
    assert optimizer.memory_by_category()["gradients"] == 8 * 20 * 4
    optimizer.step()
    held = optimizer.memory_by_category()
    assert held["optimizer_states"] == 2 * RANK * 20 * 4 + 4 + 8  # moments, the limiter's norm, the step count
    assert held["projectors"] == RANK * 8 * 4
    assert held["gradients"] == held["accumulators"] == 0
