"""Runs below torchrun's agents: a worker, an agent or a machine is lost, or asked to stop, and the run goes on."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from ranks import cases, launch
from ranks.trials import Part, Trials

WORDS = ["demo", *cases.TINY, *cases.STEPS, "train.max_steps=60", "train.save_steps=3"]
SIGNS = ("another of the", "no sign of life", "has not answered")
TAKES_UP = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}  # an agent that lives tells one that comes back where to meet


def trials(folder: Path, rng: random.Random) -> Trials:
    return {
        "node 1 lost, both started again": lambda: two_agents(folder / "0", 1),
        "node 0 lost, both started again": lambda: two_agents(folder / "1", 0),
        "node 1 vanished (SIGSTOP), both started again": lambda: two_agents(folder / "7", 1, silently=True),
        "node 0 vanished (SIGSTOP), both started again": lambda: two_agents(folder / "8", 0, silently=True),
        "a worker lost, --max-restarts=3": lambda: restarted(folder / "2"),
        "SIGTERM to torchrun": lambda: stopped(folder / "3", everyone=False),
        "SIGTERM to torchrun and all below it, as Slurm does": lambda: stopped(folder / "4", everyone=True),
        "torchrun lost, its workers not": lambda: orphaned(folder / "5"),
        "node 1 lost and back after 3 s, --max-restarts=3": lambda: returned(folder / "6"),
    }


def restarted(folder: Path, words: list[str] = WORDS) -> dict[str, Any]:
    """torchrun with two workers, one of which is killed: it starts both again."""
    with _begun(folder, words) as (out, both):
        started = time.monotonic()
        psutil.Process(both[0].pid).children()[1].kill()
        code, seconds = both[0].wait(240), time.monotonic() - started
    told = {"seconds": round(seconds, 1), "codes": [code], "state": _state(out)}
    return {"holds": _is_undisturbed(folder) and code == 0, **told, "said": "the run went on to its end"}


def returned(folder: Path) -> dict[str, Any]:
    """Two agents, one of which is killed with its worker and started again: the other one takes it up."""
    at = launch.port()
    with _begun(folder, nodes=2, at=at) as (out, both):
        _lose(both[1])
        steps, lost = len(launch.rows(out, "train")), time.monotonic()
        time.sleep(3)
        both.append(_agent(folder, 1, at, out, WORDS, 3))
        launch.until(lambda: len(launch.rows(out, "train")) > steps, 120)
        seconds = time.monotonic() - lost
        codes = [both[node].wait(240) for node in (0, 2)]
    told = {"seconds": round(seconds, 1), "codes": codes, "state": _state(out)}
    return {"holds": _is_undisturbed(folder) and codes == [0, 0], **told, "said": "the run went on to its end"}


def stopped(folder: Path, everyone: bool, words: list[str] = WORDS) -> dict[str, Any]:
    """torchrun with two workers, asked to stop; what it and the run end with, and whether the run then goes on."""
    with _begun(folder, words) as (_, both):
        started, agent = time.monotonic(), both[0]
        for each in [*(psutil.Process(agent.pid).children(recursive=True) if everyone else []), agent]:
            each.send_signal(signal.SIGTERM)
        code, seconds = agent.wait(120), time.monotonic() - started
    return _went_on(folder, {"seconds": round(seconds, 1), "codes": [code]}, words)


def orphaned(folder: Path) -> dict[str, Any]:
    """torchrun killed and its two workers not: they save and leave, and the run then goes on."""
    with _begun(folder) as (_, both):
        workers = psutil.Process(both[0].pid).children()
        both[0].kill()
        started = time.monotonic()
        alive = psutil.wait_procs(workers, timeout=launch.WITHIN)[1]
        seconds = time.monotonic() - started
        for each in alive:
            each.kill()
    found = _went_on(folder, {"seconds": round(seconds, 1), "codes": [both[0].wait()]})
    return found | {"holds": found["holds"] and not alive}


def _went_on(folder: Path, found: dict[str, Any], words: list[str] = WORDS) -> dict[str, Any]:
    """`found`, what `galore runs` says of a run that was to stop, and whether it then comes to the same."""
    out = folder / "run"
    asked = subprocess.run(
        [sys.executable, "-m", "galore", "runs", out, "--exit-code"], check=False, capture_output=True
    )
    steps = len(launch.rows(out, "train"))
    launch.finish(out, 2, words)
    holds = _is_undisturbed(folder) and asked.returncode == 75 and steps < 60
    said = f"stopped after {steps} of 60 steps"
    return {"holds": holds, **found, "state": asked.stdout.decode().strip(), "said": said}


def two_agents(folder: Path, lost: int, silently: bool = False) -> dict[str, Any]:
    """Two agents of torchrun; one and its worker are killed, then both are started again.

    `silently`: they are stopped instead, as what a vanished machine looks like to others: its connections stay open.
    """
    with _begun(folder, nodes=2, restarts=0) as (out, both):
        left = psutil.Process(both[1 - lost].pid).children()
        if silently:
            for each in _with_workers(both[lost]):
                each.suspend()
        else:
            _lose(both[lost])
        struck = time.monotonic()
        launch.until(lambda: not _alive(left), launch.WITHIN)
        alive, seconds = _alive(left), time.monotonic() - struck
        codes: list[int | None] = [_code(both[1 - lost])]
        agent = time.monotonic() - struck
        said = next((line for line in _said(folder, 1 - lost).splitlines() if any(each in line for each in SIGNS)), "")
        state, at = _state(out), launch.port()
        for each in both:
            _lose(each)
        both += [_agent(folder, node, at, out, WORDS, 0) for node in range(2)]
        codes += [each.wait(240) for each in both[2:]]
    told = {"seconds": round(seconds, 1), "agent": round(agent, 1), "codes": codes, "state": state, "said": said[:200]}
    return {"holds": _is_undisturbed(folder) and not alive, **told}


def _alive(workers: list[psutil.Process]) -> bool:
    """Whether any runs, or could; one that ended stays a zombie while its agent waits for another's store."""
    return any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in workers)


def _code(agent: subprocess.Popen[bytes]) -> int | None:
    """Exit code of an agent; None of one that does not end."""
    with suppress(subprocess.TimeoutExpired):
        return agent.wait(120)
    return None


@contextmanager
def _begun(
    folder: Path, words: list[str] = WORDS, nodes: int = 1, restarts: int = 3, at: str = ""
) -> Iterator[tuple[Path, list[subprocess.Popen[bytes]]]]:
    """A run of two workers after ten steps, below one agent or two, and an undisturbed one; agents are lost at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    launch.finish(folder / "straight", 2, words)
    out, at = folder / "run", at or launch.port()
    both = [_agent(folder, node, at, out, words, restarts, nodes, 2 // nodes) for node in range(nodes)]
    try:
        launch.until(lambda: len(launch.rows(out, "train")) >= 10, 120)
        yield out, both
    finally:
        for each in both:
            _lose(each)


def _is_undisturbed(folder: Path) -> bool:
    return launch.outcome(folder / "run") == launch.outcome(folder / "straight")


def _agent(
    folder: Path, node: int, at: str, out: Path, words: list[str], restarts: int, nodes: int = 2, workers: int = 1
) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        f"--nnodes={nodes}",
        f"--nproc-per-node={workers}",
        "--rdzv-id=bench",
    ]
    command += [f"--rdzv-endpoint=127.0.0.1:{at}", "--rdzv-backend=c10d", f"--max-restarts={restarts}"]
    # On the loopback address every node takes itself for the endpoint's host.
    command += [f"--rdzv-conf=is_host={int(node == 0)}"]
    command += ["--local-addr=127.0.0.1", "-m", "galore", "train", *words, "--output-dir", str(out), "--resume"]
    with (folder / f"node{node}.said").open("ab") as said:
        return subprocess.Popen(command, stdout=said, stderr=said, process_group=0, env=os.environ | TAKES_UP)


def _lose(agent: subprocess.Popen[bytes]) -> None:
    """Kill an agent and its workers, which have sessions of their own, as if their machine were gone."""
    if agent.poll() is None:
        for each in _with_workers(agent):
            with suppress(psutil.NoSuchProcess):
                each.kill()
        agent.wait()


def _with_workers(agent: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return [psutil.Process(agent.pid), *psutil.Process(agent.pid).children(recursive=True)]


def _said(folder: Path, node: int) -> str:
    return (folder / f"node{node}.said").read_text(errors="replace")


def _state(out: Path) -> str:
    """What run.json says of the end."""
    known = json.loads((out / "run.json").read_text())
    return "finished" if "finished" in known else str(known.get("ended", {}).get("as", "running"))


PARTS = {"agents": Part("agents", "two agents of torchrun, one of them killed", (), trials)}
