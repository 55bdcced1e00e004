"""Predicted against measured: the same steps traced on `meta` tensors and carried out here."""

from __future__ import annotations

from dataclasses import dataclass

import psutil
import torch

from galore.trainer.common.errors import UserError
from galore.trainer.common.format import size
from galore.trainer.fit.duration import Pace, pace
from galore.trainer.fit.measure import measure
from galore.trainer.fit.predict import predict
from galore.trainer.machine.cards import attached
from galore.trainer.machine.device import choose_device
from galore.trainer.memory.categories import CATEGORIES
from galore.trainer.memory.trace.trace import Trace
from galore.trainer.recipe.load import LoadedRecipe


@dataclass(frozen=True)
class Verification:
    """Bytes at the peak of tensors, by category (predicted, measured) and as the allocator counted them; a step's time.

    `phases`: in which step the peak was predicted and found.
    """

    device: str
    basis: str
    predicted: int
    measured: int
    categories: dict[str, tuple[int, int]]
    phases: tuple[str, str]
    pace: Pace

    @staticmethod
    def error(predicted: float, measured: float) -> str:
        """Relative to what was measured."""
        return f"{100 * (predicted - measured) / measured:+.3f} %" if measured else "–"

    def as_json(self) -> dict[str, object]:
        """Bytes, and the error of the peak as a fraction."""
        return {
            "device": self.device,
            "basis": self.basis,
            "predicted_bytes": self.predicted,
            "measured_bytes": self.measured,
            "error_fraction": (self.predicted - self.measured) / self.measured,
            "categories": {
                name: {"predicted": ours, "measured": theirs} for name, (ours, theirs) in self.categories.items()
            },
            "peak": {"predicted": self.phases[0], "measured": self.phases[1]},
            "step_seconds": self.pace.as_json(),
        }


def verify(loaded: LoadedRecipe) -> Verification:
    """Carry out the recipe's steps on the device it would run on, and compare.

    Raises:
        UserError: the model cannot be built or traced, or the device is not there.
    """
    device = choose_device(loaded.recipe.train.device)
    expected = predict(loaded, attached() if device.type == "cuda" else None)
    _refuse_without_room(_peak(expected)[1], device)
    found = measure(loaded, device)
    (at, predicted), (real_at, _) = _peak(expected), _peak(found.trace)
    ours, theirs = expected.by_category(at), found.trace.by_category(real_at)
    return Verification(
        device=torch.cuda.get_device_name() if device.type == "cuda" else "the CPU",
        basis=found.basis,
        predicted=predicted,
        measured=found.allocator_bytes,
        categories={name: (ours.get(name, 0), theirs.get(name, 0)) for name in CATEGORIES},
        phases=(expected.mark_at(at), found.trace.mark_at(real_at)),
        pace=pace(loaded, device),
    )


def _refuse_without_room(needed: int, device: torch.device) -> None:
    """A CPU does not refuse what it does not have: the system would kill the process."""
    there = psutil.virtual_memory().available if device.type == "cpu" else needed
    if needed > there:
        raise UserError(
            f"the steps need {size(needed)} of memory, and {size(there)} are free here",
            where="--measure",
            fix="measure with train.micro_batch_size=1, or a smaller model of the same shape",
        )


def _peak(trace: Trace) -> tuple[int, int]:
    """(event, bytes) of most memory asked for."""
    curve = trace.requested()
    at = max(range(len(curve)), key=curve.__getitem__)
    return at, curve[at]
