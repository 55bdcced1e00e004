"""SIGINT, SIGTERM and SIGHUP as a question the loop asks once per step, so that it can save before it leaves."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any, Self

# SIGHUP: a terminal that vanished, by a closed laptop or a dropped ssh. SIGQUIT (Ctrl-\\) stays the system's: it is the
# one key that ends a process which hangs where no handler of Python's is ever run.
HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ECHO = 10.0  # seconds in which torchrun passes on a signal that Slurm has sent to all processes of a job


_ENTERED: list[StopOnSignal] = []
_HEARD: list[signal.Signals] = []


@dataclass(frozen=True)
class Request:
    """A wish to stop that is no signal: `name` says whose."""

    name: str


class StopOnSignal:
    """A context in which the first of the handled signals only sets `requested`; the second leaves at once.

    A second SIGHUP says nothing new: a closing terminal sends one by its kernel and one by its shell. One that is
    ignored on entry, as `nohup` asks for, stays ignored. Below torchrun another one within ECHO seconds says nothing
    new, either.
    Leaving at once is `os._exit(128 + signum)`: no clean-up, as a kill would do, which checkpoints survive.
    Python delivers signals to the main thread only: elsewhere nothing is installed and `installed` is false.

    Args:
        say: told once what the first signal does. It is called inside the handler, which may have interrupted a
            print, and buffered streams refuse to be entered twice: it must not use them.
    """

    def __init__(self, say: Callable[[str], None] | None = None) -> None:
        self._say = say or to_stderr
        self.requested: signal.Signals | Request | None = None
        self.installed = False
        self._asked_at = 0.0
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        _ENTERED.append(self)
        if threading.current_thread() is threading.main_thread():
            taken = [number for number in HANDLED if number != signal.SIGHUP or not _ignored(number)]
            self._previous = {number: signal.signal(number, self._handle) for number in taken}
            self.installed = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: was not set from Python
        _ENTERED.remove(self)
        if isinstance(self.requested, signal.Signals):
            _HEARD.append(self.requested)
        self._previous, self.installed = {}, False

    def ask(self, who: str) -> None:
        """Set `requested` as a signal does, unless something has before."""
        self.requested = self.requested or Request(who)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if isinstance(self.requested, signal.Signals):
            echo = "TORCHELASTIC_RUN_ID" in os.environ and time.monotonic() - self._asked_at < ECHO
            if number != signal.SIGHUP and not echo:
                os._exit(128 + number)
            return
        self.requested, self._asked_at = signal.Signals(number), time.monotonic()
        self._say(f"{self.requested.name}: saving after this step; once more leaves at once, without saving")


def ask_to_stop(who: str) -> bool:
    """Let every `StopOnSignal` that is entered ask for a stop, from any thread; false where there is none."""
    for each in (entered := list(_ENTERED)):
        each.ask(who)
    return bool(entered)


def take_signal() -> signal.Signals | None:
    """The last signal that came in a `StopOnSignal` which was left since this was asked; None where none did.

    What ran in there may have come to its end, or have failed, and so have answered nothing.
    """
    heard = [*_HEARD]
    _HEARD.clear()
    return heard[-1] if heard else None


def _ignored(number: signal.Signals) -> bool:
    return signal.getsignal(number) is signal.SIG_IGN


def to_stderr(text: str) -> None:
    """Write a line to the standard error past all buffers: safe in a signal handler. Never raises."""
    with suppress(OSError):
        os.write(2, f"\n{text}\n".encode(errors="replace"))
