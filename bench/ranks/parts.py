"""The parts: what each tries, and the rows it tells."""

from __future__ import annotations

import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from ranks import cases, launch
from ranks.records import Record, Records

MOMENTS = 20  # of a run, at which one of its ranks is killed
KILLED, STEPS_KILLED = 3, 40  # ranks of such a run, and its steps
WORDS = ["demo", *cases.TINY, *cases.STEPS, "train.max_steps=60", "train.save_steps=3"]
TAKES_UP = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}  # an agent that lives tells one that comes back where to meet
WITHIN = 60.0  # seconds in which all ranks are to end after one was killed


@dataclass(frozen=True)
class Part:
    """`trials` are what it tries, by name; `header` heads the table of their figures."""

    name: str
    shows: str
    header: tuple[str, ...]
    trials: Callable[[Path, random.Random], dict[str, Callable[[], dict[str, Any]]]]


def carry_out(part: Part, folder: Path, records: Records, until: float, seed: int) -> Iterator[Record]:
    """The trials that have not held yet, as long as there is time to begin one."""
    done = {record.trial for record in records if record.part == part.name and record.holds is not False}
    for number, (trial, work) in enumerate(part.trials(folder / part.name, random.Random(seed)).items()):
        if trial in done or time.monotonic() > until:
            continue
        started = time.monotonic()
        try:
            figures = work()
        except Exception as error:
            figures = {"holds": False, "error": f"{type(error).__name__}: {str(error)[-600:]}"}
        yield records.add(Record(part.name, trial, figures, round(time.monotonic() - started, 1)))
        shutil.rmtree(folder / part.name / str(number), ignore_errors=True)


def methods(folder: Path, rng: random.Random) -> dict[str, Callable[[], dict[str, Any]]]:
    return _against_one(folder, cases.methods())


def data(folder: Path, rng: random.Random) -> dict[str, Callable[[], dict[str, Any]]]:
    return _against_one(folder, cases.data(folder / "data"))


def _against_one(folder: Path, words: dict[str, list[str]]) -> dict[str, Callable[[], dict[str, Any]]]:
    return {
        name: lambda number=number, each=each: against_one(folder / str(number), each)  # type: ignore[misc]
        for number, (name, each) in enumerate(words.items())
    }


def against_one(folder: Path, words: list[str]) -> dict[str, Any]:
    """2 and 4 ranks against one process with more accumulation; and that against itself in micro-batches of two."""
    launch.finish(folder / "1", 1, words)
    launch.finish(folder / "other", 1, [*words, "train.micro_batch_size=2"])
    found: dict[str, Any] = {"holds": True, "control": difference(folder / "1", folder / "other")}
    for count in (2, 4):
        ranks = launch.finish(folder / str(count), count, words)
        found["holds"] &= len({each["digest"] for each in ranks}) == 1
        found[str(count)] = difference(folder / "1", folder / str(count))
    return found


def difference(one: Path, other: Path) -> list[float]:
    """The largest relative difference of a loss, a norm and a held-out loss, and of weights: of the largest of each."""
    from safetensors.torch import load_file

    found = []
    for kind, key in (("train", "loss_nats"), ("train", "grad_norm"), ("eval", "loss_nats")):
        pairs = zip(launch.rows(one, kind), launch.rows(other, kind), strict=True)
        found.append(max((abs(a[key] / b[key] - 1) for a, b in pairs if key in a), default=0.0))
    weights = 0.0
    for ours, theirs in zip(launch.tensor_files(one), launch.tensor_files(other), strict=True):
        if "model" not in ours.name:
            continue
        left, right = ({name: each.double() for name, each in load_file(file).items()} for file in (ours, theirs))
        weights = max(
            weights, *(float(abs(left[n] - right[n]).max() / abs(left[n]).max()) for n in left if left[n].any())
        )
    return [*found, weights]


def kills(folder: Path, rng: random.Random) -> dict[str, Callable[[], dict[str, Any]]]:
    drawn = [(rng.uniform(0.02, 0.95), rng.randrange(KILLED)) for _ in range(MOMENTS)]
    return killed_at(folder, drawn, KILLED, killed_words())


def killed_at(
    folder: Path, moments: list[tuple[float, int]], size: int, words: list[str]
) -> dict[str, Callable[[], dict[str, Any]]]:
    """A trial for each (share of the run's time, rank that is killed then) of `size` ranks."""
    straight = folder / "straight"
    known: dict[str, Any] = {}

    def try_one(number: int, share: float, rank: int) -> dict[str, Any]:
        if not known:
            shutil.rmtree(straight, ignore_errors=True)
            started = time.monotonic()
            launch.finish(straight, size, words)
            known.update(outcome=launch.outcome(straight), seconds=time.monotonic() - started)
        out = folder / str(number) / "run"
        ranks = launch.start(out, size, words)
        # by time, which is that of a start, too; by steps where this run is the faster one
        _until(lambda: len(launch.rows(out, "train")) >= share * STEPS_KILLED, share * known["seconds"])
        ranks[rank].send(signal.SIGKILL)
        killed, steps = time.monotonic(), len(launch.rows(out, "train"))
        ended = launch.wait(ranks, WITHIN + 40)
        seconds = time.monotonic() - killed
        launch.finish(out, size, words)
        same = launch.outcome(out) == known["outcome"]
        codes = [each.code for each in ended]
        return {
            "holds": same and seconds < WITHIN and codes[rank] == -signal.SIGKILL,
            "rank": rank,
            "steps": steps,
            "seconds": round(seconds, 1),
            "codes": codes,
        }

    return {
        f"kill {number + 1}": lambda number=number, each=each: try_one(number, *each)  # type: ignore[misc]
        for number, each in enumerate(moments)
    }


def killed_words() -> list[str]:
    more = [f"train.max_steps={STEPS_KILLED}", "train.save_steps=3", "eval.eval_steps=20"]
    return ["demo", *cases.TINY, *cases.STEPS, *more]


def agents(folder: Path, rng: random.Random) -> dict[str, Callable[[], dict[str, Any]]]:
    return {
        "node 1 lost, both started again": lambda: two_agents(folder / "0", 1),
        "node 0 lost, both started again": lambda: two_agents(folder / "1", 0),
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
        _until(lambda: len(launch.rows(out, "train")) > steps, 120)
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
        alive = psutil.wait_procs(workers, timeout=WITHIN)[1]
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


def two_agents(folder: Path, lost: int) -> dict[str, Any]:
    """Two agents of torchrun; one and its worker are killed, then both are started again."""
    with _begun(folder, nodes=2, restarts=0) as (out, both):
        _lose(both[lost])
        killed = time.monotonic()
        codes, seconds = [both[1 - lost].wait(120)], time.monotonic() - killed
        said = next((line for line in _said(folder, 1 - lost).splitlines() if "another of the" in line), "")
        state, at = _state(out), launch.port()
        both += [_agent(folder, node, at, out, WORDS, 0) for node in range(2)]
        codes += [each.wait(240) for each in both[2:]]
    told = {"seconds": round(seconds, 1), "codes": codes, "state": state, "said": said[:200]}
    return {"holds": _is_undisturbed(folder) and seconds < WITHIN, **told}


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
        _until(lambda: len(launch.rows(out, "train")) >= 10, 120)
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
        for each in [psutil.Process(agent.pid), *psutil.Process(agent.pid).children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        agent.wait()


def _said(folder: Path, node: int) -> str:
    return (folder / f"node{node}.said").read_text(errors="replace")


def _state(out: Path) -> str:
    import json

    return str(json.loads((out / "run.json").read_text()).get("ended", {}).get("as", "running"))


def _until(holds: Callable[[], bool], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not holds() and time.monotonic() < until:
        time.sleep(0.02)


def speed(folder: Path, rng: random.Random) -> dict[str, Callable[[], dict[str, Any]]]:
    return {
        f"{method}, {accumulation} a rank": lambda m=method, a=accumulation: timed(folder / m / str(a), m, a)  # type: ignore[misc]
        for method in ("galore", "full")
        for accumulation in (1, 4)
    }


def timed(folder: Path, method: str, accumulation: int) -> dict[str, Any]:
    """Tokens a second and share of time in collectives, in turns: the median of three runs each."""
    large = ["model.hidden_size=256", "model.intermediate_size=688", "data.max_length=128", "optim.rank=64"]
    batch = [f"train.global_batch_size={2 * accumulation}", "train.micro_batch_size=1", "train.max_steps=24"]
    words = ["demo", *cases.TINY, *cases.STEPS, *large, *batch, "train.save_steps=null", "eval.eval_steps=null"]
    words += [f"optim.method={method}", "optim.update_proj_gap=200"]
    ways = {"one": (1, 2, True), "overlapped": (2, 1, True), "after": (2, 1, False)}
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for turn in range(3):
        for way, (count, threads, overlap) in ways.items():
            out = folder / way / str(turn)
            ranks = launch.finish(out, count, [*words, f"train.num_threads={threads}"], overlap=overlap)
            rates = [row["tokens_per_second"] for row in launch.rows(out, "train")[4:]]
            waited = statistics.mean(each["waited"] / each["seconds"] for each in ranks)
            found[way].append((statistics.median(rates), waited))
    told: dict[str, Any] = {"holds": None}
    for way, turns in found.items():
        told[way] = [
            round(statistics.median(rate for rate, _ in turns)),
            statistics.median(share for _, share in turns),
        ]
    return told


AGAINST = ("loss", "norm", "held-out", "weights")
PARTS = {
    part.name: part
    for part in (
        Part("methods", "every method, 2 and 4 ranks against one process", AGAINST, methods),
        Part("data", "every kind of data, the same", AGAINST, data),
        Part("kills", f"kill -9 of one of {KILLED} ranks at {MOMENTS} random moments", (), kills),
        Part("agents", "two agents of torchrun, one of them killed", (), agents),
        Part("speed", "two processes of a thread against one of two", (), speed),
    )
}
