"""A tracker in a thread of its own, where it may fail or hang: the run goes on, and waits for it a bounded time."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from galore.trainer.common.errors import UserError
from galore.trainer.record.metrics import End
from galore.trainer.record.trackers.tracker import Tracker, Values

START_SECONDS = 180.0  # wandb gives up after 90 by itself
CLOSE_SECONDS = 120.0  # the last rows on their way over a slow line
MOST_WAITING = 10_000  # rows

Action = Callable[[Tracker], object]


class Guarded:
    """A tracker that is silent after its first failure, which is told once.

    All of it happens in one thread, since trackers keep the run that is going on by thread.
    """

    def __init__(self, name: str, begin: Callable[[], Tracker], warn: Callable[[str], None]) -> None:
        """Wait until it has begun. Raises what `begin` raises, or UserError if that takes too long."""
        self._name, self._warn = name, warn
        self._actions = queue.Queue[Action | None](MOST_WAITING)
        self._begun, self._ended = threading.Event(), threading.Event()
        self._failure: BaseException | None = None
        self._alive = True
        threading.Thread(target=self._serve, args=[begin], name=f"tracker-{name}", daemon=True).start()
        if not self._begun.wait(START_SECONDS):
            what = f"{name} does not start: no answer in {START_SECONDS:.0f} seconds"
            raise UserError(what, where="log.report_to", fix="mend that, or take it out of log.report_to")
        if self._failure is not None:
            raise self._failure

    def log(self, step: int, values: Values) -> None:
        """Hand on the values of a row, without waiting."""
        self._hand_on(lambda tracker: tracker.log(step, values))

    def close(self, end: End = "finished") -> None:
        """Let it end; wait no longer than `CLOSE_SECONDS` for it."""
        self._hand_on(lambda tracker: tracker.close(end))
        self._hand_on(None)
        if self._alive and not self._ended.wait(CLOSE_SECONDS):
            self._stop(f"it did not end in {CLOSE_SECONDS:.0f} seconds")
        self._look()

    def _hand_on(self, action: Action | None) -> None:
        self._look()
        try:
            if self._alive:
                self._actions.put_nowait(action)
        except queue.Full:
            self._stop(f"{MOST_WAITING:,} rows wait for it")

    def _look(self) -> None:
        """Tell what went wrong in the thread since."""
        if self._failure is not None:
            self._stop(str(self._failure) or type(self._failure).__name__)

    def _stop(self, reason: str) -> None:
        if self._alive:
            self._alive = False
            self._warn(f"{self._name} stopped working ({reason}); the run goes on, metrics.jsonl has everything")

    def _serve(self, begin: Callable[[], Tracker]) -> None:
        try:
            tracker = begin()
            self._begun.set()
            while (action := self._actions.get()) is not None:
                action(tracker)
        except BaseException as error:
            self._failure = error
        self._begun.set()
        self._ended.set()
