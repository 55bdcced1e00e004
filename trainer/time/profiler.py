"""Profiled steps of a run: torch's profiler over each, its trace in the run's folder, and where their time went."""

from __future__ import annotations

import gzip
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import torch
from torch.profiler import ProfilerActivity, profile

from galore.kernels.span import span, spans_are_seen
from galore.trainer.common.errors import UserError
from galore.trainer.common.format import counted, duration, percent, size
from galore.trainer.common.reading import read_bounded
from galore.trainer.recipe.schema.train import LogSection
from galore.trainer.time.account import Account

LARGEST_TRACE_BYTES = 2**29  # of one step, as JSON; it is read to be accounted for
WHERE = "log.profile_steps"
QUIET = "6"  # above every level of the library beneath torch's profiler, which else writes to the terminal


class Record(Protocol):
    """What keeps an event of the run, with the seconds of steps if it has some."""

    def __call__(self, step: int, message: str, profile: dict[str, Any] | None = None) -> None: ...


@dataclass
class StepProfiler:
    """Profiles the `steps` of a run, numbers from 1, each by itself. `keep` writes a trace, `show` tells a person."""

    steps: Sequence[int]
    device: torch.device
    keep: Callable[[str, bytes], Path]
    record: Record
    show: Callable[[str], object]
    accounts: list[Account] = field(default_factory=list)
    last: int = 0
    kept: Path = Path()
    _open: ExitStack | None = None
    _profile: Any = None

    def begin(self, step: int) -> None:
        """Profile `step`, if it is one of those, from here on."""
        if step not in self.steps:
            return
        if torch._C._autograd._profiler_enabled():
            self._give_up(step, "not profiled: another profiler is running in this process")
            return
        on_gpu = [ProfilerActivity.CUDA] if self.device.type == "cuda" else []
        os.environ.setdefault("KINETO_LOG_LEVEL", QUIET)
        self._open = ExitStack()
        self._profile = self._open.enter_context(profile(activities=[ProfilerActivity.CPU, *on_gpu]))
        self._open.enter_context(spans_are_seen())
        self._open.enter_context(span("step"))

    def end(self, step: int) -> None:
        """Keep the trace of `step`; after the last one give the account of all."""
        if self._open is None:
            return
        self._wait()
        self._close()
        try:
            self._keep(step)
        except (OSError, ValueError) as error:
            self._give_up(step, f"the trace of step {step:,} was not kept: {error}")
        if self.steps and step == self.steps[-1]:
            self._tell(step)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """A run that ends in between gives the account of the steps that are whole."""
        self._close()
        self._profile = None
        self._tell(self.last)

    def _keep(self, step: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "trace.json"
            self._profile.export_chrome_trace(str(file))
            self._profile = None
            if (length := file.stat().st_size) > LARGEST_TRACE_BYTES:
                raise ValueError(f"it has {size(length)}, more than {size(LARGEST_TRACE_BYTES)}")
            content = read_bounded(file, LARGEST_TRACE_BYTES)
        self.accounts.append(Account.of(json.loads(content)["traceEvents"]))
        self.last = step
        self.kept = self.keep(f"step-{step:08d}.json.gz", gzip.compress(content, 6))

    def _tell(self, step: int) -> None:
        """One event for the metrics, and a table for who watches."""
        if not self.accounts:
            return
        account, self.accounts, self.steps = Account.together(self.accounts), [], ()
        self.record(step, in_words(account), profile=account.as_json())
        for line in lines(account):
            self.show(line)
        if self.kept.name:
            self.show(f"traces: {self.kept.parent}, for Perfetto or chrome://tracing")

    def _give_up(self, step: int, why: str) -> None:
        self._close()
        self.steps = [each for each in self.steps if each <= step] if self.accounts else ()
        self.record(step, why)
        self._tell(step)

    def _close(self) -> None:
        if self._open is not None:
            opened, self._open = self._open, None
            opened.close()

    def _wait(self) -> None:
        """A GPU is waited for, so that the step's kernels are in its trace."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def require_profiled(log: LogSection, total_steps: int) -> None:
    """Raise UserError where steps are to be profiled that a run of so many does not have."""
    if log.profiled and log.profiled[-1] > total_steps:
        raise UserError(
            f"asks for step {log.profiled[-1]:,}, and the run has {counted(total_steps, 'step')}",
            where=WHERE,
            fix=f"name steps from 1 to {total_steps:,}",
        )


def in_words(account: Account) -> str:
    """`profiled 3 steps of 1.2s: forward 31 %, backward 52 %, …`"""
    shares = ", ".join(f"{name} {percent(share)}" for name, _, share in account.rows())
    return f"profiled {counted(account.steps, 'step')} of {duration(account.seconds / account.steps)}: {shares}"


def lines(account: Account) -> list[str]:
    """A row per part: seconds of a step in the mean, and share."""
    rows = [(name, f"{seconds:.4f} s", percent(share)) for name, seconds, share in account.rows()]
    rows.append(("a step", f"{account.seconds / account.steps:.4f} s", percent(1.0)))
    return [f"  {name:<12} {seconds:>12} {share:>7}" for name, seconds, share in rows]
