"""Several processes on this machine against one: losses, bytes, kills and time.

    python bench/ranks.py [kills] [speed] [table] [--kills 20] [--seed 0] [--minutes 60]

kills  `kill -9` of a random rank at a random step, `--resume`, again and again: every row and tensor as of the run
       nobody killed.
speed  Two processes of one thread against one process of two threads.
table  2 and 4 processes by gloo against one with more accumulation, per method: the largest relative difference of a
       loss, a gradient norm and a held-out loss, and the bytes sent in an ordinary step.

After so many minutes no further kill, and no further method, is begun.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SETTINGS = [
    "model.hidden_size=64",
    "model.intermediate_size=128",
    "model.num_hidden_layers=2",
    "model.num_attention_heads=4",
    "model.dtype=float32",
    "data.max_length=64",
    "optim.rank=8",
    "optim.update_proj_gap=4",
    "train.global_batch_size=8",
    "train.micro_batch_size=1",
    "train.max_steps=20",
    "train.save_steps=5",
    "eval.eval_steps=10",
    "eval.max_tokens=4000",
    "eval.sample_prompt=null",
    "log.logging_steps=1000",
    "train.device=cpu",
    "train.num_threads=1",
]
METHODS = {
    "galore, delayed": [],
    "galore, two-pass": ["optim.refresh=two-pass", "optim.stagger=false"],
    "galore, summed": ["optim.refresh=summed"],
    "galore, first-micro-batch": ["optim.refresh=first-micro-batch"],
    "galore, 8-bit states": ["optim.state_dtype=8bit"],
    "fira": ["optim.residual=fira"],
    "lora": ["optim.method=lora", "optim.scale=0.25", "optim.train_modules=[embed_tokens,lm_head]"],
    "full": ["optim.method=full"],
}
COMPARED = ("step", "loss_nats", "grad_norm", "learning_rate", "sample_ids_crc32", "tokens")


def start(out: Path, ranks: int, settings: list[str]) -> list[subprocess.Popen[bytes]]:
    """The processes of a run, as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "galore", "train", "demo", *SETTINGS, *settings, "--output-dir", str(out)]
    command += ["--resume"] if (out / "recipe.yaml").exists() else []
    where = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    environments = [os.environ | where | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]
    return [
        subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for env in environments
    ]


def finish(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        _, said = process.communicate(timeout=300)
        if process.returncode:
            sys.exit(f"exit code {process.returncode}\n{said.decode()}")


def rows(out: Path, kind: str) -> list[dict[str, Any]]:
    path = out / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [row for row in map(json.loads, lines) if row["kind"] == kind]


def difference(one: Path, other: Path) -> dict[str, float]:
    """Largest relative difference of a loss, a norm and a held-out loss."""
    pairs = {"loss": ("train", "loss_nats"), "norm": ("train", "grad_norm"), "held-out": ("eval", "loss_nats")}
    return {
        name: max(abs(a[key] / b[key] - 1) for a, b in zip(rows(one, kind), rows(other, kind), strict=True))
        for name, (kind, key) in pairs.items()
    }


def outcome(out: Path) -> tuple[Any, ...]:
    """Every step's row, and a digest of every tensor file of the last checkpoint."""
    files = sorted(max((out / "checkpoints").glob("step-*")).glob("*.safetensors"))
    digests = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    return [tuple(row[key] for key in COMPARED) for row in rows(out, "train")], digests


def table(root: Path, until: float) -> None:
    print(
        "| method | ranks | loss | norm | held-out loss | bytes sent in an ordinary step |\n|---|---|---|---|---|---|"
    )
    for method, settings in METHODS.items():
        if time.monotonic() > until:
            return
        finish(start(root / method / "1", 1, settings))
        for ranks in (2, 4):
            out = root / method / str(ranks)
            finish(start(out, ranks, settings))
            found = difference(root / method / "1", out)
            sent = sum(json.loads((out / "run.json").read_text())["parallel"]["sent_bytes_per_step"].values())
            print(
                f"| {method} | {ranks} | {' | '.join(f'{each:.1e}' for each in found.values())} | {sent:,} |",
                flush=True,
            )


def kills(root: Path, count: int, rng: random.Random, until: float) -> None:
    settings = ["train.max_steps=40", "train.save_steps=3", "eval.eval_steps=20"]
    straight, killed, done = root / "straight", root / "killed", {0: 0, 1: 0}
    finish(start(straight, 2, settings))
    for step in sorted(rng.sample(range(2, 38), count)):
        if time.monotonic() > until:
            break
        processes, rank = start(killed, 2, settings), rng.randrange(2)
        while len(rows(killed, "train")) < step and all(each.poll() is None for each in processes):
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.05))
        done[rank] += processes[rank].poll() is None
        processes[rank].kill()
        for each in processes:
            each.communicate(timeout=120)
    finish(start(killed, 2, settings))
    same = outcome(straight) == outcome(killed)
    print(
        f"\n{done[0]} kills of rank 0 and {done[1]} of rank 1: {'bit-identical' if same else 'NOT THE SAME'}",
        flush=True,
    )
    if not same:
        sys.exit(1)


def speed(root: Path) -> None:
    large = ["model.hidden_size=256", "model.intermediate_size=688", "data.max_length=128", "optim.rank=64"]
    settings = [*large, "train.save_steps=null", "eval.eval_steps=null", "optim.update_proj_gap=200"]
    found = {}
    for name, ranks, threads in (("one process, two threads", 1, 2), ("two processes, a thread each", 2, 1)):
        finish(start(root / name, ranks, [*settings, f"train.num_threads={threads}"]))
        rates = sorted(row["tokens_per_second"] for row in rows(root / name, "train")[3:])
        found[name] = rates[len(rates) // 2]
        print(f"{name}: {found[name]:,.0f} tokens a second, the median of {len(rates)} steps", flush=True)
    one, two = found.values()
    print(f"two processes reach {two / one:.2f} times the throughput")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["kills", "speed", "table"])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=60.0)
    arguments = parser.parse_args()
    until = time.monotonic() + 60 * arguments.minutes
    with tempfile.TemporaryDirectory() as folder:
        if "kills" in arguments.parts:
            kills(Path(folder) / "kills", arguments.kills, random.Random(arguments.seed), until)
        if "speed" in arguments.parts:
            speed(Path(folder) / "speed")
        if "table" in arguments.parts:
            table(Path(folder) / "table", until)


if __name__ == "__main__":
    main()
