"""What a run writes down of itself: one row per step, evaluation and event, to metrics.jsonl and to the console."""

from __future__ import annotations

import functools
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from galore.trainer.common.printable import masked
from galore.trainer.data.batch import Batch, Result
from galore.trainer.data.score import by_modality
from galore.trainer.machine.hardware import Peak, device_peak
from galore.trainer.machine.power import PowerMeter
from galore.trainer.memory.live import at_peak, by_category, current_and_peak
from galore.trainer.models.flops import flops_per_token, model_flops_utilization
from galore.trainer.models.matmul.install import multiplies_in_eight_bits
from galore.trainer.record.callbacks import Callbacks
from galore.trainer.record.metrics import Console, Metrics
from galore.trainer.record.row import EvalRow, EventRow, TrainRow
from galore.trainer.step import StepResult

SHORT = {torch.bfloat16: "bf16", torch.float32: "fp32"}


@dataclass
class Meter:
    """Throughput against the device's peak. `flops`: of a token in rows so long, None where they cannot be counted."""

    flops: Callable[[int], int | None]
    peak: Peak

    @classmethod
    def of(cls, model: Any, device: torch.device, dtype: torch.dtype, devices: int = 1) -> Meter:
        peak = device_peak(str(device), dtype)
        if peak.flops_per_second is not None:
            of = SHORT.get(dtype, "") if multiplies_in_eight_bits(model) else ""
            peak = replace(peak, flops_per_second=devices * peak.flops_per_second, of=of)
        return cls(functools.cache(partial(flops_per_token, model)), peak)

    @classmethod
    def unknown(cls, device: torch.device) -> Meter:
        """One that tells nothing."""
        return cls(lambda length: None, Peak(None, "unknown", str(device)))

    def mfu(self, tokens: int, rows: int, seconds: float) -> float | None:
        """Share of the peak that a step of so many tokens reached in `seconds`; `rows` count by their mean length."""
        return model_flops_utilization(self.flops(round(tokens / rows)), tokens / seconds, self.peak)


class Recorder:
    """Turns results into rows. `last` is the step that was recorded last.

    `tokens` counts every position of the rows of a step, from the start of the run, however they are fed.
    """

    def __init__(
        self,
        metrics: Metrics,
        console: Console,
        meter: Meter,
        device: torch.device,
        baseline: int,
        callbacks: Callbacks | None = None,
        power: PowerMeter | None = None,
    ) -> None:
        self.metrics, self.console, self.meter = metrics, console, meter
        self.callbacks = callbacks or Callbacks()
        self.device, self.baseline, self.power = device, baseline, power
        self.last = 0
        self.tokens = 0
        self.skipped_in_a_row = 0
        self._before = dict[str, int]()
        self._holds: Callable[[], dict[str, int]] = dict

    def counters(self) -> dict[str, int]:
        """What a checkpoint keeps, so that the counts go on across a resumption."""
        return {"tokens": self.tokens, "skipped_in_a_row": self.skipped_in_a_row}

    def go_on_from(self, counters: Mapping[str, Any]) -> None:
        """Take up what `counters` gave."""
        self.tokens, self.skipped_in_a_row = counters["tokens"], counters["skipped_in_a_row"]

    @contextmanager
    def watching(self, model: nn.Module, optimizer: Optimizer) -> Iterator[None]:
        """Meanwhile, what they hold is measured before every update, when the gradients are there, and after it."""
        self._holds = partial(by_category, model, optimizer)
        hook = optimizer.register_step_pre_hook(lambda *_: self._before.update(self._holds()))
        try:
            with self.power.running() if self.power is not None else nullcontext():
                yield
        finally:
            hook.remove()

    def step(self, step: int, batch: Batch, result: StepResult, rates: Mapping[str, float], seconds: float) -> None:
        """Record a finished step; `step` counts from 1. `rates`: the learning rates it had, as a row calls them."""
        fed, report = result.tokens, result.report
        self.last = step
        self.tokens += batch.tokens
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if report.skipped else 0
        memory = current_and_peak(self.device)
        categories = {name: max(now, self._before.get(name, 0)) for name, now in self._holds().items()}
        drawn = self.power.take() if self.power is not None else None
        row: TrainRow = {
            "kind": "train",
            "step": step,
            **batch.measures(result.loss_nats),
            **_beside(result),
            **cast("TrainRow", rates),
            "grad_norm": report.grad_norm,
            "grad_scale": report.grad_scale,
            "tokens": self.tokens,
            "targets": result.targets,
            "tokens_per_second": fed / seconds,
            "step_seconds": seconds,
            "mfu_fraction": self.meter.mfu(fed, len(batch), seconds),
            "memory_current_bytes": memory.current,
            "memory_peak_bytes": memory.peak,
            "memory_by_category_bytes": at_peak(categories, memory.peak, self.baseline),
            **(drawn or {}),
            "sample_ids_crc32": zlib.crc32(np.asarray(batch.sequence_ids, dtype=np.int64).tobytes()),
            "skipped": report.skipped,
            "refreshed_layers": report.refreshed,
            "decomposition_fallbacks": report.fallbacks,
            "z_loss": result.z_loss,
            "refused_parameters": report.refused,
        }
        if not result.z_loss:
            del row["z_loss"]
        if not report.refused:
            del row["refused_parameters"]
        self.metrics.write(row)
        self.console.step(row)
        self.tell(step, "on_step", row)
        if report.refused:
            self.event(
                step,
                f"step {step} skipped in part: the gradients of {report.refused} parameter(s) are not finite; the others moved",
            )
        elif report.skipped:
            self.event(step, f"step {step} skipped: the gradient is not finite; weights and states are as they were")
        if result.restarted:
            self.event(step, f"step {step}: {result.restarted} adapters merged into their weights and started anew")
        if report.fallbacks:
            self.event(
                step,
                f"step {step}: {report.fallbacks} decomposition(s) fell back: what they were of was zero, or they did not converge",
            )

    def evaluation(self, step: int, result: Result, started: float, sample: str | None, question: str | None) -> None:
        """Record an evaluation begun at `started` (time.perf_counter); `question` where the sample is an answer."""
        seconds = time.perf_counter() - started
        row = cast("EvalRow", {"kind": "eval", "step": step, **result.row(), "seconds": seconds, "sample": sample})
        if question is not None:
            row["question"] = question
        self.metrics.write(row)
        self.console.evaluation(row)
        self.tell(step, "on_evaluate", row)
        if self.power is not None:
            self.power.take()  # what an evaluation took is not the next step's

    def event(self, step: int, message: str, profile: dict[str, Any] | None = None) -> None:
        """Record something that happened once, with the seconds of steps that were profiled."""
        self.tell(step, "on_event", self._event(step, message, profile))

    def tell(self, step: int, hook: str, *what: Any) -> None:
        """Tell the callbacks; what those that raise leave is recorded as an event, of which no callback hears."""
        for complaint in self.callbacks.tell(hook, *what):
            self._event(step, complaint)

    def _event(self, step: int, message: str, profile: dict[str, Any] | None = None) -> EventRow:
        message = masked(message)
        row: EventRow = {"kind": "event", "step": step, "message": message}
        if profile is not None:
            row["profile"] = profile
        self.metrics.write(row)
        self.console.message(message)
        return row


def _beside(result: StepResult) -> TrainRow:
    """What a step tells beside its loss, where there are several modalities or losses."""
    row: TrainRow = {}
    if result.by_modality is not None:
        row |= cast("TrainRow", by_modality(result.by_modality))
    if result.extra_loss is not None:
        row["extra_loss"] = result.extra_loss
    if result.router_loss is not None:
        row["router_loss"] = result.router_loss
    return row
