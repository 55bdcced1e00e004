"""A tracker may fail, leave the process or never answer: it costs one message, and bounded time."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from galore.trainer.common.errors import UserError
from galore.trainer.record.trackers import guarded
from galore.trainer.record.trackers.guarded import Guarded


class Fake:
    """A tracker that does something else where it is told to."""

    def __init__(self, **does: Callable[[], object]) -> None:
        self._does, self.known, self.threads = does, list[int](), {threading.get_ident()}

    def log(self, step: int, values: dict[str, Any]) -> None:
        self.threads.add(threading.get_ident())
        self._does.get("log", int)()
        self.known.append(step)

    def close(self, end: str) -> None:
        self.threads.add(threading.get_ident())
        self._does.get("close", int)()


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guarded, "START_SECONDS", 0.2)
    monkeypatch.setattr(guarded, "CLOSE_SECONDS", 0.2)
    monkeypatch.setattr(guarded, "MOST_WAITING", 20)


def leave() -> None:
    raise SystemExit(3)


def fail() -> None:
    raise RuntimeError("network is down")


def hang() -> None:
    threading.Event().wait(60)


def test_all_of_a_tracker_happens_in_one_thread() -> None:
    made = list[Fake]()

    def begin() -> Fake:
        made.append(Fake())
        return made[0]

    tracker = Guarded("wandb", begin, print)
    for step in range(5):
        tracker.log(step, {})
    tracker.close()
    assert made[0].known == list(range(5))
    assert len(made[0].threads) == 1
    assert threading.get_ident() not in made[0].threads


@pytest.mark.parametrize("does", [leave, fail, hang])
@pytest.mark.parametrize("where", ["log", "close"])
def test_a_run_goes_on_whatever_it_does(where: str, does: Callable[[], object]) -> None:
    said, began = list[str](), time.monotonic()
    tracker = Guarded("wandb", lambda: Fake(**{where: does}), said.append)
    for step in range(100):
        tracker.log(step, {})
        time.sleep(0.0005)
    tracker.close()
    assert time.monotonic() - began < 5
    assert len(said) == 1
    reason = {leave: "3", fail: "network is down", hang: "it did not end in 0 seconds|20 rows wait"}[does]
    assert re.match(rf"wandb stopped working \(({reason})", said[0])


def test_one_that_does_not_begin_is_refused() -> None:
    with pytest.raises(UserError, match="wandb does not start: no answer in 0 seconds"):
        Guarded("wandb", hang, print)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="network is down"):
        Guarded("wandb", fail, print)  # type: ignore[arg-type]
