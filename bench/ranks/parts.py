"""The parts: what each tries, and the rows it tells."""

from __future__ import annotations

import random
import shutil
import signal
import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any

from ranks import cases, launch
from ranks.memory import IN_PARTS
from ranks.trials import Part, Trials

MOMENTS = 20  # of a run, at which one of its ranks is killed
KILLED, STEPS_KILLED = 3, 40  # ranks of such a run, and its steps


def methods(folder: Path, rng: random.Random) -> Trials:
    return _against_one(folder, cases.methods())


def data(folder: Path, rng: random.Random) -> Trials:
    return _against_one(folder, cases.data(folder / "data"))


def _against_one(folder: Path, words: dict[str, list[str]]) -> Trials:
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
    for kind, *keys in (("train", "loss_nats", "router_loss"), ("train", "grad_norm"), ("eval", "loss_nats")):
        pairs = list(zip(launch.rows(one, kind), launch.rows(other, kind), strict=True))
        found.append(max((abs(a[key] / b[key] - 1) for key in keys for a, b in pairs if key in a), default=0.0))
    weights = 0.0
    for ours, theirs in zip(launch.tensor_files(one), launch.tensor_files(other), strict=True):
        if "model" not in ours.name:
            continue
        left, right = ({name: each.double() for name, each in load_file(file).items()} for file in (ours, theirs))
        weights = max(
            weights, *(float(abs(left[n] - right[n]).max() / abs(left[n]).max()) for n in left if left[n].any())
        )
    return [*found, weights]


def kills(folder: Path, rng: random.Random) -> Trials:
    drawn = [(rng.uniform(0.02, 0.95), rng.randrange(KILLED)) for _ in range(MOMENTS)]
    return struck_at(folder, drawn, KILLED, killed_words()) | asked_at(folder, KILLED, killed_words())


def struck_at(
    folder: Path, moments: list[tuple[float, int]], size: int, words: list[str], number: signal.Signals = signal.SIGKILL
) -> Trials:
    """A trial for each (share of the run, rank that gets the signal then) of `size` ranks.

    SIGKILL comes in a start, too; SIGTERM after as many steps, since before the first there is nothing to save.
    """
    straight = folder / "straight"
    known: dict[str, Any] = {}
    killed = number == signal.SIGKILL

    def try_one(trial: str, share: float, rank: int) -> dict[str, Any]:
        if not known:
            shutil.rmtree(straight, ignore_errors=True)
            started = time.monotonic()
            launch.finish(straight, size, words)
            known.update(outcome=launch.outcome(straight), seconds=time.monotonic() - started)
        out = folder / trial / "run"
        ranks = launch.start(out, size, words)
        within = share * known["seconds"] if killed else launch.LIMIT
        # by time, which is that of a start, too; by steps where this run is the faster one
        launch.until(lambda: len(launch.rows(out, "train")) >= share * STEPS_KILLED, within)
        ranks[rank].send(number)
        struck = time.monotonic()
        codes = [each.code for each in launch.wait(ranks, launch.WITHIN + 40)]
        seconds, steps = time.monotonic() - struck, len(launch.rows(out, "train"))
        saved = max((int(each.name[5:]) for each in out.glob("checkpoints/step-*")), default=0)
        as_told = codes[rank] == -signal.SIGKILL if killed else codes == [75] * size and saved == steps < STEPS_KILLED
        launch.finish(out, size, words)
        same = launch.outcome(out) == known["outcome"]
        told = {"rank": rank, "steps": steps, "saved": saved, "seconds": round(seconds, 1), "codes": codes}
        return {"holds": same and seconds < launch.WITHIN and as_told, **told}

    names = [f"{'kill' if killed else number.name} {count + 1}" for count in range(len(moments))]
    return {name: partial(try_one, name, *each) for name, each in zip(names, moments, strict=True)}


def asked_at(folder: Path, size: int, words: list[str]) -> Trials:
    """SIGTERM to one rank, the first and the last among them: all save and end with 75."""
    return struck_at(folder, [(0.2, 0), (0.5, size - 1), (0.8, 1)], size, words, signal.SIGTERM)


def killed_words() -> list[str]:
    more = [f"train.max_steps={STEPS_KILLED}", "train.save_steps=3", "eval.eval_steps=20"]
    return ["demo", *cases.TINY, *cases.STEPS, *more]


def speed(folder: Path, rng: random.Random) -> Trials:
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
    ways = {
        "one": (1, 2, True, []),
        "overlapped": (2, 1, True, []),
        "after": (2, 1, False, []),
        "fsdp": (2, 1, True, [IN_PARTS]),
    }
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for turn in range(3):
        for way, (count, threads, overlap, more) in ways.items():
            out = folder / way / str(turn)
            ranks = launch.finish(out, count, [*words, *more, f"train.num_threads={threads}"], overlap=overlap)
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
        Part("speed", "two processes of a thread against one of two", (), speed),
    )
}
