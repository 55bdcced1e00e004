"""A sign of life of every process of a group, so that a machine that vanishes is noticed.

Its connections stay open: a collective would wait for it until its time limit. torch has nothing for that: NCCL's
watchdog looks after its own process, gloo's monitored barrier after those that call it, and torchrun's keep-alive takes
a machine off its list and lets the workers of the others be.

Each process counts, in the store that all of them met by, and looks at the others' counts; in threads, so that neither
a long step nor saving nor tokenizing holds it up. Silence is counted in looks of one's own and not by a clock: who was
stopped itself, as a laptop is, takes nobody for silent because of that.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

import torch.distributed as dist

from galore.trainer.machine.process import is_first
from galore.trainer.machine.signals import to_stderr

LOOKS = 9  # within the time after which silence is the end
LEFT = b"left"  # in place of a count: who says so is not waited for
STORE = -1  # among ranks: what they meet by
LOST = 1  # exit code: the newest checkpoint stands, but nothing was saved for this


class Heartbeat:
    """The signs of life of rank `rank` of `size`, and its ear for those of the others.

    Args:
        timeout: seconds of silence after which this process ends.
        end: what ends it, and is told why; of several processes that live one says so, the others hear an empty text.
    """

    def __init__(self, rank: int, size: int, timeout: float, end: Callable[[str], None] | None = None) -> None:
        self.rank, self.timeout, self.end = rank, timeout, end or _end
        self.interval = timeout / (LOOKS + 1)
        self.where = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        # torchrun may keep the store when it starts its workers again
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self.keys = [f"galore/heartbeat/{attempt}/{each}" for each in range(size)]
        self.heard: dict[int, bytes] = {}
        self.looks = 0
        self.last = {STORE: 0}  # at which look there was a sign, of whom there was one before
        self._leaving = threading.Event()
        self._threads = [
            threading.Thread(target=each, name="heartbeat", daemon=True) for each in (self._beat, self._judge)
        ]

    def start(self) -> None:
        for each in self._threads:
            each.start()

    def leave(self) -> None:
        """Wait for nobody any more, and let the others not wait for this one."""
        self._leaving.set()
        self._threads[0].join(self.interval)  # a store that is gone may hold it for ever

    def _beat(self) -> None:
        store, count, name = None, 0, socket.gethostname()
        while not self._leaving.is_set():
            count += 1
            with suppress(RuntimeError):  # of this, too, others are told by silence
                store = store or dist.TCPStore(*self.where, None, False, timeout=timedelta(seconds=self.interval))  # type: ignore[attr-defined]
                store.set(self.keys[self.rank], f"{count} {name}")
                self._look(store)
            self._leaving.wait(self.interval)
        with suppress(RuntimeError):
            if store is not None:
                store.set(self.keys[self.rank], LEFT.decode())

    def _look(self, store: dist.TCPStore) -> None:  # type: ignore[name-defined]
        """Hear what has changed. Who was never seen to change may not have begun, or be of an earlier attempt."""
        found = store.multi_get(self.keys) if store.check(self.keys) else []
        for rank, value in enumerate(found):
            if value == LEFT or rank == self.rank:
                self.last.pop(rank, None)
            elif rank in self.heard and value != self.heard[rank]:
                self.last[rank] = self.looks
            self.heard[rank] = value
        self.last[STORE] = self.looks
        if self.heard.get(0) == LEFT:  # it has the store, or is the last that needs it
            del self.last[STORE]

    def _judge(self) -> None:
        while not self._leaving.wait(self.interval):
            self.looks += 1
            if silent := sorted(each for each, at in list(self.last.items()) if self.looks - at > LOOKS):
                self.end(self._told(silent) if self._speaks(silent) else "")
                return

    def _speaks(self, silent: list[int]) -> bool:
        if STORE in silent:
            return is_first(on_machine=True)
        return self.rank == min(each for each, value in self.heard.items() if each not in silent and value != LEFT)

    def _told(self, silent: list[int]) -> str:
        if STORE in silent:
            return f"what the processes meet by, at {self.where[0]}:{self.where[1]}, has not answered for {self.timeout:g} seconds"
        names = [f"rank {each} on {self.heard[each].decode().partition(' ')[2]}" for each in silent]
        return f"no sign of life for {self.timeout:g} seconds of {', '.join(names)}"


def _end(told: str) -> None:
    """End this process, whose other threads may wait in a collective for ever."""
    if told:
        fix = "see whether that machine lives; start again with --resume: the run goes on from its newest checkpoint"
        to_stderr(f"failed: {told} (parallel.heartbeat_timeout)\n  → {fix}")
    os._exit(LOST)
