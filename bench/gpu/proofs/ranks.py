"""Several processes on one card: NCCL with one of them, gloo with two, as NCCL takes a card for one process only."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from gpu.proofs.exact import ROWS, STEPS, TOLERANCE, Trial, _equal
from gpu.records import Records
from gpu.scale import Scale

METHODS = {"galore": ["optim.method=galore"], "full": ["optim.method=full"]}
WAIT = 150.0  # seconds until a process that hangs is given up


def prove(scale: Scale, records: Records) -> None:
    """The two processes of gloo run beside the one of NCCL."""
    folder = scale.folder / "ranks"
    folder.mkdir(parents=True, exist_ok=True)
    pair, one = _start(scale, folder / "two", 2), _start(scale, folder / "one", 1)
    alone = {name: _trained(scale, settings, None) for name, settings in METHODS.items()}
    try:
        _compare_one(_came_to(one, folder / "one"), alone, scale, records)
        _compare_two(_came_to(pair, folder / "two"), alone, records)
    finally:
        for process in (*pair, *one):
            process.kill()
            process.wait()


def _start(scale: Scale, out: Path, size: int) -> list[subprocess.Popen[bytes]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(size)}
    words = [sys.executable, "-m", "gpu.proofs.ranks", str(out), "rehearse" if scale.rehearsal else "card"]
    environments = [scale.environment(RANK=str(rank), **where) for rank in range(size)]
    return [subprocess.Popen(words, env=env) for env in environments]


def _came_to(ranks: list[subprocess.Popen[bytes]], out: Path) -> list[dict[str, Any]]:
    """What each rank has left in its file."""
    until = time.monotonic() + WAIT
    for rank in ranks:
        if code := rank.wait(max(1.0, until - time.monotonic())):
            raise RuntimeError(f"a rank of {out.name} ended with {code}")
    import torch

    return [torch.load(f"{out}.{rank}", weights_only=True) for rank in range(len(ranks))]


def _compare_one(found: list[dict[str, Any]], alone: dict[str, Any], scale: Scale, records: Records) -> None:
    """The sum over one rank is the gradient itself: no bit may differ."""
    (only,) = found
    backend = only.pop("backend")
    for name, own in only.items():
        same = all(_equal(own["tensors"][key], tensor) for key, tensor in alone[name]["tensors"].items())
        figures = {"sent_in_the_backward": own["overlapped"], "sent": own["sent"]}
        records.note(
            f"one rank by {backend}, {name}: the bits of a run without", ok=same and own["overlapped"] > 0, **figures
        )
    if not scale.rehearsal:
        records.note("the library that carries it", ok=backend == "nccl", backend=backend)


def _compare_two(found: list[dict[str, Any]], alone: dict[str, Any], records: Records) -> None:
    backend = found[0]["backend"]
    for name, expected in alone.items():
        first, second = (each[name] for each in found)
        same = all(_equal(tensor, second["tensors"][key]) for key, tensor in first["tensors"].items())
        moved = apart = 0.0
        for key, start in expected["start"].items():
            moved += float((expected["tensors"][key].double() - start.double()).square().sum())
            apart += float((expected["tensors"][key].double() - first["tensors"][key].double()).square().sum())
        share = (apart / moved) ** 0.5
        records.note(f"two ranks by {backend}, {name}: the same bits on both", ok=same, sent=first["sent"])
        records.note(
            f"two ranks against one with more accumulation, {name}: of the movement", ok=share <= TOLERANCE, share=share
        )


def _trained(scale: Scale, settings: list[str], group: Any) -> dict[str, Any]:
    """A small model after some steps of 8 rows, and what was sent; `overlapped`: before a backward had ended."""
    from galore.trainer.optim.ranks import Sums
    from galore.trainer.step import train_step

    trial = Trial.of(scale, "model.dtype=float32", *settings, ranks=group)
    start = {name: each.detach().cpu().clone() for name, each in trial.model.named_parameters()}
    overlapped, finish = 0, Sums.finish

    def counted(sums: Any) -> None:
        nonlocal overlapped
        overlapped += len(sums.waits)
        finish(sums)

    Sums.finish = counted  # type: ignore[method-assign]
    try:
        for _ in range(STEPS):
            train_step(trial.model, trial.optimizer, trial.rows, ROWS // 4, 1.0, group=group)
    finally:
        Sums.finish = finish  # type: ignore[method-assign]
    tensors = {name: each.detach().cpu() for name, each in trial.tensors()}
    return {
        "start": start,
        "tensors": tensors,
        "overlapped": overlapped,
        "sent": 0 if group is None else group.sent["sum"],
    }


def _as_rank(out: str, scale: Scale) -> None:
    """One process of a group: alone by NCCL where there is a card, else by gloo, whose tensors may lie on a card too."""
    import torch
    import torch.distributed as dist

    from galore.trainer.parallel.group import Group, leave

    size = int(os.environ["WORLD_SIZE"])
    dist.init_process_group("nccl" if size == 1 and not scale.rehearsal else "gloo")
    if not scale.rehearsal:
        torch.cuda.set_device(0)
    group = Group(dist.get_rank(), size)
    found: dict[str, Any] = {name: _trained(scale, settings, group) for name, settings in METHODS.items()}
    torch.save(found | {"backend": group.backend}, f"{out}.{group.rank}")
    leave()


if __name__ == "__main__":
    _as_rank(sys.argv[1], Scale(sys.argv[2] == "rehearse", Path(sys.argv[1]).parent))
