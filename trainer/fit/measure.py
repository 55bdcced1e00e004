"""A recipe's steps carried out for real, and what the device's allocator says of them."""

from __future__ import annotations

import gc
import os
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate

import torch

from galore.kernels.device import device_type
from galore.trainer.fit.rehearsal import ORDINARY, Rehearsal
from galore.trainer.memory.trace.trace import Trace
from galore.trainer.memory.trace.tracer import Tracer
from galore.trainer.memory.workspaces.casts import cpu_workspaces
from galore.trainer.optim.ranks import Ranks
from galore.trainer.recipe.load import LoadedRecipe

MICRO_BATCHES = 4  # of a step that are carried out: one more than a prediction takes to be enough

STEPS = 3  # that are timed


@dataclass
class Measurement:
    """`allocator_bytes`: the peak that the allocator itself counted, weights included; `basis`: how it was asked.

    `phases`: its peaks of each kind of step, where it counts them apart. `host_bytes`: most that waited on the host;
    `bus`: bytes to the device and back in an ordinary step.
    """

    trace: Trace
    allocator_bytes: int
    basis: str
    host_bytes: int = 0
    bus: tuple[int, int] = (0, 0)
    phases: dict[str, int] = field(default_factory=dict)


def measure(loaded: LoadedRecipe, device: torch.device, ranks: Ranks | None = None) -> Measurement:
    """Train the first, an ordinary and a refresh step with random tokens, and evaluate once.

    Raises:
        UserError: the model cannot be built. RuntimeError: the device has too little memory.
    """
    tracer = Tracer(device.type, cpu_workspaces if device.type == "cpu" else None)
    rehearsal = Rehearsal.prepare(loaded, str(device), tracer, MICRO_BATCHES, ranks)
    trace = rehearsal.tracer.trace
    weights = sum(each.nbytes for each in trace.allocations)
    measurement = Measurement(trace, 0, "")
    if device_type(device) == "cuda":
        watched = _cuda_allocator(measurement, tracer)
    else:
        watched = _cpu_allocator(measurement, weights)
    with watched:
        rehearsal.run()
    measurement.host_bytes = sum(host.most for host in rehearsal.hosts())
    measurement.bus = rehearsal.moved[ORDINARY]
    del rehearsal
    gc.collect()  # model, hooks and tracer refer to each other
    return measurement


def step_seconds(loaded: LoadedRecipe, device: torch.device) -> float:
    """Time of an ordinary step of at most MICRO_BATCHES micro-batches, the median of a few; random tokens.

    Raises:
        UserError: the model cannot be built. RuntimeError: the device has too little memory.
    """
    rehearsal = Rehearsal.prepare(loaded, str(device), Tracer(device.type), MICRO_BATCHES)
    rehearsal.tracer.close()
    found = rehearsal.time_steps(STEPS)
    del rehearsal
    gc.collect()
    return statistics.median(found)


@contextmanager
def _cuda_allocator(measurement: Measurement, tracer: Tracer) -> Iterator[None]:
    """CUDA's peak, asked for and begun anew before each kind of step."""
    phase = "model"

    def begun(following: str) -> None:
        nonlocal phase
        measurement.phases[phase] = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        phase = following

    torch.cuda.reset_peak_memory_stats()
    tracer.begun = begun
    yield
    torch.cuda.synchronize()
    begun("")
    measurement.allocator_bytes = max(measurement.phases.values())
    measurement.basis = "torch.cuda.max_memory_allocated"


@contextmanager
def _cpu_allocator(measurement: Measurement, weights: int) -> Iterator[None]:
    """The CPU's allocator reports every block to torch's profiler, those that no operation shows included."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        yield
    assert profile.profiler is not None
    events = profile.profiler.kineto_results.events()
    changes = (event.nbytes() for event in events if event.name() == "[memory]")
    measurement.allocator_bytes = weights + max(accumulate(changes), default=0)
    measurement.basis = "torch's CPU allocator, as its profiler records it"
