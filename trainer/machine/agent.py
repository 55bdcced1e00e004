"""The agent of torchrun that started this process: watched, so that no process of a run outlives it.

An agent that is killed takes none of its workers along: they would train on, or wait for each other for hours, and
hold the run meanwhile. Wherever one of them stands, a thread beside it sees that its parent is another one.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
import time

from galore.trainer.machine.process import is_first
from galore.trainer.machine.signals import ask_to_stop, to_stderr

LOOKS = 1.0  # seconds between two looks at the parent
GRACE = 40.0  # seconds in which a run that heard of it may end its step, save and leave by itself
LEFT = 1  # exit code: the newest checkpoint stands, but nothing was saved for this


@functools.cache
def agent() -> int | None:
    """The process that started this one, if that was torchrun; None on a system without parents, too."""
    return os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ and sys.platform != "win32" else None


@functools.cache
def watch_agent() -> None:
    """Begin to watch, if there is an agent; without, time limits of the collectives are all there is."""
    if agent() is not None:
        threading.Thread(target=_watch, name="watch of torchrun", daemon=True).start()


def leave_it_to_the_watch() -> None:
    """Where the agent is gone, stand still until the watch had its turn: it ends this process, and says why."""
    if _is_gone():
        time.sleep(2 * LOOKS)


def _is_gone() -> bool:
    return agent() not in (None, os.getppid())


def _watch() -> None:
    while not _is_gone():
        time.sleep(LOOKS)
    if ask_to_stop("torchrun's end"):
        time.sleep(GRACE)
    if is_first(on_machine=True):
        what = f"failed: torchrun, which started this process, is gone (process {agent()} was killed)"
        to_stderr(f"{what}\n  → start it again with --resume: the run goes on from its newest checkpoint")
    os._exit(LEFT)
