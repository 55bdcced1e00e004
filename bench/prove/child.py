"""A verb, or any function, in a forked child of a process that has imported everything: a second a run instead of ten.

The parent must have a single thread when it forks, as a lock that another one holds would never be let go in the child;
`run` refuses otherwise. A child that is over its time is killed with all it started, after it wrote where it stood.
"""

from __future__ import annotations

import ctypes
import faulthandler
import importlib
import os
import pkgutil
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from prove.shim import Fault, Which, arm

PR_SET_PDEATHSIG = 1  # linux/prctl.h: a child does not outlive its parent
LIMIT = 40.0  # seconds of one child, on a busy machine; a run takes two
UNCAUGHT = 70  # exit code of a child whose function raised
BUG = ("This is a bug in galore", "Traceback (most recent call last)")


def preload() -> None:
    """Import what verbs import, except pyarrow and what needs it: it starts a thread."""
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    import torch

    torch.set_num_threads(1)
    import matplotlib.pyplot
    import transformers.generation

    import galore.cli
    import galore.trainer

    for room in (galore.cli, galore.trainer):
        for module in pkgutil.walk_packages(room.__path__, f"{room.__name__}."):
            importlib.import_module(module.name)
    assert matplotlib.pyplot
    assert transformers.generation
    one_thread()


def one_thread() -> None:
    """Raise RuntimeError unless this process may fork."""
    if (threads := len(os.listdir("/proc/self/task"))) != 1:  # noqa: PTH208
        raise RuntimeError(f"{threads} threads: a fork of this process may hang")


@dataclass(frozen=True)
class Ended:
    """How a child ended: exit code (-signal; None: hung), all it said, seconds."""

    code: int | None
    said: str
    seconds: float

    @property
    def hung(self) -> bool:
        return self.code is None

    @property
    def bug(self) -> bool:
        """Whether what reached the user, or would have, is a traceback."""
        return self.code == UNCAUGHT or any(sign in self.said for sign in BUG)

    def __str__(self) -> str:
        """Of one that hung first where it stood, of another its last words."""
        how = "hung" if self.hung else f"exit {self.code}"
        said = " ".join(self.said.split())
        return f"{how}: {said[:600] if self.hung else said[-600:]}"


@dataclass
class Child:
    """A function that runs in a process group of its own; its output goes to `said`, or where the parent's goes."""

    pid: int
    said: Path | None
    started: float = field(default_factory=time.monotonic)
    killed: bool = False

    def wait(self, limit: float = LIMIT) -> Ended:
        deadline, pause = self.started + limit, 0.001
        while True:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done:
                self._end_group()
                code = None if self.killed else os.waitstatus_to_exitcode(status)
                said = self.said.read_text(errors="replace") if self.said else ""
                return Ended(code, said, time.monotonic() - self.started)
            if time.monotonic() > deadline and not self.killed:
                self.killed = True
                self.send(signal.SIGUSR2)  # where it stands, see `_go`
                time.sleep(0.3)
                self._end_group()
            time.sleep(pause)
            pause = min(pause * 1.5, 0.02)

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def _end_group(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


def start(
    work: Callable[[], object],
    said: Path | None,
    fault: Fault | None = None,
    watch: Sequence[Path] = (),
    which: Which = Which.CHANGES,
    log: Path | None = None,
    memory: int | None = None,
    stdin: str = "",
) -> Child:
    """Fork a child that carries out `work`: an int it returns is its exit code, as is that of a SystemExit.

    Args:
        fault: what happens to its file operations below `watch`; `log` is where they are told.
        memory: bytes of address space beyond what is taken already.
    """
    one_thread()
    if said is not None:
        said.parent.mkdir(parents=True, exist_ok=True)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = UNCAUGHT
        try:
            os.setpgid(0, 0)
            os.write(write, b".")
            code = _go(work, said, fault, watch, which, log, memory, stdin)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(write)
    os.read(read, 1)  # the group is there
    os.close(read)
    return Child(pid, said)


def run(work: Callable[[], object], said: Path, limit: float = LIMIT, **how: object) -> Ended:
    """`start` and `wait`."""
    return start(work, said, **how).wait(limit)  # type: ignore[arg-type]


def verb(*words: object) -> Callable[[], None]:
    """`galore WORDS`, through its command line."""

    def work() -> None:
        from galore.cli.main import main

        sys.argv = ["galore", *map(str, words)]
        main()

    return work


def _go(
    work: Callable[[], object],
    said: Path | None,
    fault: Fault | None,
    watch: Sequence[Path],
    which: Which,
    log: Path | None,
    memory: int | None,
    stdin: str,
) -> int:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if said is not None:
        _tell(said)
    _give(stdin)
    faulthandler.register(signal.SIGUSR2, file=sys.stderr, all_threads=True)
    if memory is not None:
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + memory, taken + memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if fault is not None:
        arm(fault, watch, which, log)
    try:
        result = work()
        code = result if isinstance(result, int) else 0
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _tell(said: Path) -> None:
    out = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for number in (1, 2):
        os.dup2(out, number)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", buffering=1, closefd=False)


def _give(text: str) -> None:
    read, write = os.pipe()
    os.write(write, text.encode())
    os.close(write)
    os.dup2(read, 0)
    sys.stdin = os.fdopen(0, "r", encoding="utf-8", closefd=False)
