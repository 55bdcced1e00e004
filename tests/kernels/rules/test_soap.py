"""SOAP's axes: against the specification, what they are of, and what happens where none are found."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from galore.kernels.reference import rules
from galore.kernels.rules.adam import AdamRule
from galore.kernels.rules.soap import FREQUENCY, SoapRule

SHAPE = (6, 40)


def state_of(rule: SoapRule, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    return {name: torch.zeros(shape, dtype=dtype) for name, shape in rule.state_shapes(SHAPE).items()}


def gradients(count: int, seed: int = 0) -> list[Tensor]:
    """Of directions that differ in size by up to 100, and turn slowly."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.linalg.qr(torch.randn(SHAPE[0], SHAPE[0], generator=generator))[0] * torch.logspace(0, -2, SHAPE[0])
    turn = torch.matrix_exp(0.002 * (noise := torch.randn(SHAPE[0], SHAPE[0], generator=generator)).sub(noise.mT))
    found = []
    for _ in range(count):
        mixed = turn @ mixed
        found.append(mixed @ torch.randn(SHAPE, generator=generator))
    return found


def test_thirty_steps_equal_the_specification() -> None:
    rule, settings = SoapRule(0.8, 0.97, 1e-6), rules.Settings(1.0, beta1=0.8, beta2=0.97, eps=1e-6)
    state, exactly = state_of(rule), rules.State(*SHAPE)
    for step, grad in enumerate(gradients(30), 1):
        direction = rule.direction_(grad, state, step=step)
        torch.testing.assert_close(
            direction.double(), -rules.soap(grad.double(), exactly, settings), rtol=2e-3, atol=2e-4
        )


def test_it_is_adam_where_the_axes_are_those_of_the_coordinates() -> None:
    """Rows that never share a column are the eigenvectors themselves."""
    rule, adam = SoapRule(), AdamRule()
    state, moments = state_of(rule), [torch.zeros(SHAPE), torch.zeros(SHAPE)]
    for step in range(1, 2 * FREQUENCY):
        grad = torch.zeros(SHAPE)
        for row in range(SHAPE[0]):
            grad[row, row::6] = 2.0**-row * (1 + 0.1 * torch.sin(torch.tensor(float(step * row))))
        weight = torch.zeros(SHAPE)
        adam.update_(weight, grad, *moments, step=step, lr=1.0)
        torch.testing.assert_close(rule.direction_(grad, state, step=step), weight, rtol=1e-4, atol=1e-5)


def test_axes_follow_what_is_averaged_and_turn_at_their_steps_alone() -> None:
    rule = SoapRule()
    state, changed, before = state_of(rule), [], torch.zeros(SHAPE[0], SHAPE[0])
    for step, grad in enumerate(gradients(4 * FREQUENCY), 1):
        rule.direction_(grad, state, step=step)
        changed += [step] if not torch.equal(before, state["axes"]) else []
        before = state["axes"].clone()
        assert step > 1 or bool(((before.mT @ state["gram"] @ before).diagonal().diff() < 0).all())
    assert changed == [1, *range(FREQUENCY, 4 * FREQUENCY + 1, FREQUENCY)]
    torch.testing.assert_close(before.mT @ before, torch.eye(SHAPE[0]), rtol=0, atol=1e-5)
    along = before.mT @ state["gram"] @ before
    sizes = along.diagonal()
    assert (along - torch.diag(sizes)).norm() < 0.1 * sizes.norm()
    assert bool((sizes.diff() < 0).all())


@pytest.mark.parametrize("broken", [1, FREQUENCY])
def test_where_no_axes_are_found_they_stay(monkeypatch: pytest.MonkeyPatch, broken: int) -> None:
    fell_back = []
    rule = SoapRule(fell_back=lambda: fell_back.append(1))
    state, steps = state_of(rule), gradients(FREQUENCY)
    for step, grad in enumerate(steps[: broken - 1], 1):
        rule.direction_(grad, state, step=step)
    before = state["axes"].clone() if broken > 1 else torch.eye(SHAPE[0])

    def raises(*_: Tensor) -> Tensor:
        raise torch.linalg.LinAlgError("did not converge")

    monkeypatch.setattr(torch.linalg, "eigh", raises)
    monkeypatch.setattr(torch.linalg, "qr", raises)
    found = rule.direction_(steps[broken - 1], state, step=broken)
    assert torch.equal(state["axes"], before)
    assert fell_back == [1]
    assert bool(torch.isfinite(found).all())


def test_the_direction_may_take_the_place_of_the_gradient() -> None:
    rule, (grad,) = SoapRule(), gradients(1)
    expected, given = rule.direction_(grad.clone(), state_of(rule), step=1), grad.clone()
    assert rule.direction_(given, state_of(rule), step=1, out=given) is given
    assert torch.equal(given, expected)
