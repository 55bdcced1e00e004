"""The ranks of a run as forked children of a process that has imported everything, started as torchrun starts them."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from prove import child
from prove.child import Child, Ended

WITHIN = 60.0  # seconds in which all ranks are to end after one was killed
LIMIT = 300.0  # seconds of one run, on a busy machine
COMPARED = ("step", "loss_nats", "grad_norm", "learning_rate", "sample_ids_crc32", "tokens")


def port() -> str:
    """One that is free."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def start(out: Path, count: int, words: Sequence[str], *, overlap: bool = True) -> list[Child]:
    """`galore train WORDS --output-dir OUT` on so many ranks; what a rank came to is in OUT.RANK."""
    at = port()
    return [
        child.start(partial(_as_rank, rank, count, at, out, words, overlap), _said(out, rank)) for rank in range(count)
    ]


def finish(out: Path, count: int, words: Sequence[str], *, overlap: bool = True) -> list[dict[str, Any]]:
    """What each rank came to.

    Raises:
        RuntimeError: one of them failed.
    """
    ended = wait(start(out, count, words, overlap=overlap))
    if wrong := [each for each in ended if each.code != 0]:
        raise RuntimeError(f"{out.name}, {count} ranks: {wrong[0]}")
    return [json.loads(Path(f"{out}.{rank}").read_text()) for rank in range(count)]


def wait(ranks: Sequence[Child], limit: float = LIMIT) -> list[Ended]:
    return [each.wait(limit) for each in ranks]


def until(holds: Callable[[], bool], seconds: float, every: float = 0.02) -> None:
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(every)


def rows(out: Path, kind: str) -> list[dict[str, Any]]:
    path = out / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [row for row in map(json.loads, lines) if row["kind"] == kind]


def outcome(out: Path) -> tuple[Any, ...]:
    """Every step's row, and a digest of every tensor file of the last checkpoint."""
    digests = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in tensor_files(out)}
    return [tuple(row[key] for key in COMPARED) for row in rows(out, "train")], digests


def tensor_files(out: Path) -> list[Path]:
    return sorted(last(out).glob("*.safetensors"))


def last(out: Path) -> Path:
    """The checkpoint of the highest step."""
    return max((out / "checkpoints").glob("step-*"))


def tensors(out: Path) -> dict[str, str]:
    """A digest of every weight and state of the last checkpoint, however its files hold them."""
    from galore.trainer.checkpoint.checkpoint import newest_verified

    saved, _ = newest_verified(out / "checkpoints")
    assert saved is not None
    found = {name: saved.load(name) for name in saved.groups if name != "rng"}
    return {
        f"{group}: {name}": hashlib.sha256(each[name].flatten().view(_bytes()).numpy().tobytes()).hexdigest()
        for group, each in found.items()
        for name in sorted(each)
    }


def _said(out: Path, rank: int) -> Path:
    return out.with_name(f"{out.name}.{rank}.said")


def as_rank(rank: int, count: int, at: str) -> None:
    """Put this process in the place where torchrun puts a rank."""
    where = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": at}
    os.environ |= {name: str(value) for name, value in where.items()}


def _as_rank(rank: int, count: int, at: str, out: Path, words: Sequence[str], overlap: bool) -> None:
    if count > 1:
        as_rank(rank, count, at)
    _tell(Path(f"{out}.{rank}"), overlap)
    resume = ["--resume"] if (out / "recipe.yaml").exists() else []
    child.verb("train", *words, "--output-dir", out, *resume)()


def _tell(to: Path, overlap: bool) -> None:
    """Write down what the loop came to on this rank, once it is over."""
    from galore.trainer import follow, loop, run
    from galore.trainer.loop import train
    from galore.trainer.machine import hardware
    from galore.trainer.optim import GaLoreAdamW
    from galore.trainer.record.shown import report

    # What takes longer than a tiny model's steps, and tells nothing of them.
    report.draw = lambda history: {}  # type: ignore[assignment]
    hardware.measure_gemm = lambda *_, **__: 1e11  # type: ignore[assignment]
    if not overlap:
        GaLoreAdamW.expect_last = lambda self: None  # type: ignore[method-assign]

    saves, save = list[float](), loop.save

    def timed(*of: Any, **more: Any) -> None:
        started = time.perf_counter()
        save(*of, **more)
        saves.append(time.perf_counter() - started)

    loop.save = timed

    def watched(carried: Any, *others: Any) -> Any:
        before, started = (0.0 if carried.group is None else carried.group.waited), time.perf_counter()
        result = train(carried, *others)
        seconds = time.perf_counter() - started
        waited = 0.0 if carried.group is None else carried.group.waited - before
        to.write_text(json.dumps({"digest": _digest(carried), "seconds": seconds, "waited": waited, "saves": saves}))
        return result

    replaced: Callable[..., Any] = watched
    run.train = follow.train = replaced


def _digest(carried: Any) -> str:
    """Of every weight, and of all that the optimizer keeps."""
    from galore.trainer.optim.parts.shards import local

    found = hashlib.sha256()
    for name, tensor in carried.model.state_dict().items():
        found.update(name.encode() + local(tensor.detach()).contiguous().view(-1).view(_bytes()).numpy().tobytes())
    for slot in carried.optimizer.slots.values():
        for name, tensor in sorted(slot.state.items()):
            found.update(name.encode() + tensor.detach().contiguous().view(-1).view(_bytes()).numpy().tobytes())
    return found.hexdigest()


def _bytes() -> Any:
    import torch

    return torch.uint8
