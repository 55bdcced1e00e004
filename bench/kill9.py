"""`kill -9` at random moments, `--resume`, and compare with the run nobody killed: every bit must be the same.

    python bench/kill9.py [--kills 4] [--seed 0]      galore, lora, full × accumulation 1 and 4

Compared: every tensor of the last checkpoint (weights, moments, projectors, random state), and per step the loss, the
gradient norm, the learning rate and the ids of the sequences. Exit code 1 on the first difference.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

STEPS = 40
SETTINGS = [
    f"train.max_steps={STEPS}",
    "train.global_batch_size=8",
    "train.save_steps=3",
    "eval.eval_steps=20",
    "eval.max_tokens=4096",
    "optim.update_proj_gap=7",
    "optim.rank=16",
    "model.num_hidden_layers=2",
    "optim.lora_dropout=0.1",
    "log.logging_steps=1000",
]
METHODS = ("galore", "lora", "full")
COMPARED = ("step", "loss_nats", "grad_norm", "learning_rate", "sample_ids_crc32", "tokens")


def command(out: Path, method: str, accumulation: int, resume: bool) -> list[str]:
    own = [f"optim.method={method}", f"train.micro_batch_size={8 // accumulation}"]
    own += ["optim.scale=0.25", "optim.train_modules=[embed_tokens,lm_head]"] if method == "lora" else []
    galore = str(Path(sys.executable).with_name("galore"))
    return [galore, "train", "demo", *SETTINGS, *own, "--output-dir", str(out), *(["--resume"] if resume else [])]


def execute(arguments: list[str], out: Path, kill_at: int | None, delay: float) -> bool:
    """Run to the end (True); or, `delay` seconds after step `kill_at` is recorded, kill -9 (False)."""
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while kill_at is not None and process.poll() is None:
        if steps_recorded(out) >= kill_at:
            time.sleep(delay)
            process.kill()
            process.communicate()
            return process.returncode == 0
        time.sleep(0.005)
    _, errors = process.communicate()
    if process.returncode:
        sys.exit(f"{' '.join(arguments)}\nexit code {process.returncode}\n{errors.decode()}")
    return True


def steps_recorded(out: Path) -> int:
    metrics = out / "metrics.jsonl"
    return metrics.read_bytes().count(b'"kind": "train"') if metrics.exists() else 0


def outcome(out: Path) -> tuple[list[tuple[Any, ...]], dict[str, str]]:
    """Per-step rows and a digest of every tensor file of the last checkpoint."""
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    steps = [tuple(row[key] for key in COMPARED) for row in rows if row["kind"] == "train"]
    files = sorted((out / "checkpoints" / f"step-{STEPS:08d}").glob("*.safetensors"))
    return steps, {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def survive(method: str, accumulation: int, kills: int, rng: random.Random, folder: Path) -> int:
    """Kill one run at `kills` random steps and moments, resume it to its end, and compare; returns the number of kills."""
    straight, killed = folder / "straight", folder / "killed"
    execute(command(straight, method, accumulation, resume=False), straight, None, 0.0)
    done = 0
    for step in sorted(rng.sample(range(1, STEPS), kills)):
        resume = (killed / "recipe.yaml").exists()
        done += not execute(command(killed, method, accumulation, resume), killed, step, rng.uniform(0.0, 0.2))
    execute(command(killed, method, accumulation, resume=True), killed, None, 0.0)
    expected, got = outcome(straight), outcome(killed)
    if expected != got:
        sys.exit(f"{method}, accumulation {accumulation}: NOT the same\n{expected[1]}\n{got[1]}")
    print(
        f"{method:7} accumulation {accumulation}: {done} kills, {len(got[0])} steps and {len(got[1])} files bit-identical",
        flush=True,
    )
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=4, help="per run, six runs")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng, total = random.Random(arguments.seed), 0
    for method in METHODS:
        for accumulation in (1, 4):
            with tempfile.TemporaryDirectory() as folder:
                total += survive(method, accumulation, arguments.kills, rng, Path(folder))
    print(f"{total} kills survived")


if __name__ == "__main__":
    main()
