"""Predicted against measured: the same steps traced on `meta` tensors and carried out here."""

from __future__ import annotations

from dataclasses import dataclass, field

import psutil
import torch

from galore.trainer.common.errors import UserError
from galore.trainer.common.format import size
from galore.trainer.fit.duration import Pace, pace
from galore.trainer.fit.hostmemory import INPUTS, host_profile
from galore.trainer.fit.measure import MICRO_BATCHES, Measurement, measure
from galore.trainer.fit.predict import predict
from galore.trainer.machine.cards import attached
from galore.trainer.machine.device import choose_device
from galore.trainer.memory.categories import CATEGORIES
from galore.trainer.memory.trace.trace import Trace
from galore.trainer.recipe.load import LoadedRecipe


@dataclass(frozen=True)
class Verification:
    """Bytes at the peak of tensors, by category (predicted, measured) and as the allocator counted them; a step's time.

    `phases`: in which step the peak was predicted and found. `host`: what waits there, and what crosses the bus in an
    ordinary step.
    """

    device: str
    basis: str
    predicted: int
    measured: int
    categories: dict[str, tuple[int, int]]
    phases: tuple[str, str]
    pace: Pace
    host: dict[str, tuple[int, int]] = field(default_factory=dict)

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
            "host": {name: {"predicted": ours, "measured": theirs} for name, (ours, theirs) in self.host.items()},
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
        host=_on_host(loaded, device.type, found),
    )


def _on_host(loaded: LoadedRecipe, kind: str, found: Measurement) -> dict[str, tuple[int, int]]:
    """{what: (predicted, measured)} in bytes; nothing where nothing waits on the host."""
    if not found.host_bytes:
        return {}
    expected = host_profile(loaded, kind, min(MICRO_BATCHES, loaded.recipe.train.accumulation))
    waiting = sum(expected.pinned.values()) - expected.pinned[INPUTS]
    names = ("to the device in a step", "to the host in a step")
    pairs = zip(expected.bus, found.bus, strict=True)
    return {"on the host": (waiting, found.host_bytes), **dict(zip(names, pairs, strict=True))}


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
