"""The global norm that a step is clipped by, and that what is applied has, for every optimizer of the family."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from galore.trainer.optim import GaLoreAdamW
from galore.trainer.optim.projected import ProjectedSlot
from galore.trainer.optim.slot import FullSlot, Update
from galore.trainer.optimizer import build_optimizer
from galore.trainer.recipe.schema.optim import OptimSection

from .cases import COMMON, PRESETS

MAGNITUDES = (1e-4, 1.0, 1e4)  # of a gradient's entries: what is added to a norm of one is not seen at another
SHARES = (0.3, 1 - 1e-5, 1.0, 1 + 1e-5, 3.0, None)  # of the norm that is the limit; None sets none


@pytest.fixture(autouse=True)
def _small_states_take_8_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("galore.trainer.optim.parts.storage.SMALLEST_QUANTIZED", 16)


class Two:
    """A preset on a matrix that is its target, and on a layer with a bias that is not."""

    def __init__(self, preset: str, sides: tuple[int, int] = (30, 12)) -> None:
        pairs = (override.removeprefix("optim.").split("=", 1) for override in (*COMMON, *PRESETS[preset]))
        optim = OptimSection(**{key: yaml.safe_load(value) for key, value in pairs})
        torch.manual_seed(0)
        self.model = nn.ModuleDict({"target": nn.Linear(*sides, bias=False), "beside": nn.Linear(7, 5)})
        self.optimizer: GaLoreAdamW = build_optimizer(self.model, optim, accumulation=1, seed=3)

    def backward(self, gradients: list[Tensor]) -> None:
        terms = ((p * g).sum() for p, g in zip(self.model.parameters(), gradients, strict=True))
        sum(terms, torch.zeros(())).backward()  # type: ignore[no-untyped-call]

    def norm(self) -> float:
        """Of what is accumulated, in float64."""
        self.optimizer.clip_grad_norm_(None)
        return math.sqrt(sum(squares(slot) for slot in self.optimizer.slots.values()))

    def drawn(self, seed: int, magnitude: float) -> list[Tensor]:
        draw = torch.Generator().manual_seed(seed)
        return [magnitude * torch.randn(p.shape, generator=draw) for p in self.model.parameters()]


def squares(slot: FullSlot) -> float:
    whole = slot.refresh.whole.value if isinstance(slot, ProjectedSlot) else None
    held = slot.sum.value if whole is None else whole
    assert held is not None
    found = held.double().square().sum()
    if isinstance(slot, ProjectedSlot) and (sampled := slot.refresh.sampled):
        columns = sampled.sum.value
        assert columns is not None
        found += columns.double().square().sum() - held[:, sampled.block].double().square().sum()
    return float(found)


@pytest.mark.parametrize("preset", PRESETS)
def test_what_is_applied_has_the_norm_of_the_gradients_or_the_limit(
    preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    applied: list[float] = []
    for kind in {type(slot) for slot in Two(preset).optimizer.slots.values()}:
        watch(monkeypatch, kind, applied)
    two = Two(preset)
    for number, (magnitude, share) in enumerate((m, s) for m in MAGNITUDES for s in SHARES):
        two.backward(two.drawn(number, magnitude))
        norm = two.norm()
        limit = None if share is None else share * norm
        assert two.optimizer.clip_grad_norm_(limit) == pytest.approx(norm, rel=1e-6)
        applied.clear()
        two.optimizer.step()
        assert len(applied) == 3
        expected = norm if limit is None else min(norm, limit)
        assert math.sqrt(sum(applied)) == pytest.approx(expected, rel=1e-6), (magnitude, share)
        report = two.optimizer.report
        assert report is not None
        assert report.grad_norm * report.grad_scale == pytest.approx(expected, rel=1e-6)


def watch(monkeypatch: pytest.MonkeyPatch, kind: type[FullSlot], applied: list[float]) -> None:
    real = kind.apply

    def apply(slot: Any, update: Update) -> None:
        if type(slot) is kind:  # and not through a class above it
            applied.append(squares(slot) * update.grad_scale**2)
        real(slot, update)

    monkeypatch.setattr(kind, "apply", apply)


@pytest.mark.parametrize("sides", [(30, 12), (12, 30)])
@pytest.mark.parametrize("preset", PRESETS)
def test_clipped_steps_are_the_steps_of_shorter_gradients(preset: str, sides: tuple[int, int]) -> None:
    """By powers of two, so that all that is linear in a gradient is shortened exactly."""
    clipped, shorter = Two(preset, sides), Two(preset, sides)
    start = [p.detach().clone() for p in clipped.model.parameters()]
    for number, share in enumerate(2 * (1.0, 0.5, 0.125, 0.25, 1.0, 0.5)):  # across refreshes, and SOAP's next axes
        gradients = clipped.drawn(number, 1.0)
        clipped.backward(gradients)
        clipped.optimizer.clip_grad_norm_(share * clipped.norm())
        clipped.optimizer.step()
        shorter.backward([share * g for g in gradients])
        shorter.optimizer.step()
    moved = zip(start, clipped.model.parameters(), shorter.model.parameters(), strict=True)
    for before, one, other in moved:
        assert float((one - other).norm() / (other - before).norm()) < 1e-3
