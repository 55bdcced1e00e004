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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

SETTINGS = (
    "train.global_batch_size=8",
    "train.save_steps=3",
    "eval.eval_steps=20",
    "eval.max_tokens=4096",
    "optim.update_proj_gap=7",
    "optim.rank=16",
    "model.num_hidden_layers=2",
    "optim.lora_dropout=0.1",
    "log.logging_steps=1000",
)
METHODS = ("galore", "lora", "full")
COMPARED = ("step", "loss_nats", "grad_norm", "learning_rate", "sample_ids_crc32", "tokens")
Outcome = tuple[list[tuple[Any, ...]], dict[str, str]]


class Survived(NamedTuple):
    """Kills that came before the end, and the outcomes of the run nobody killed and of the other."""

    kills: int
    expected: Outcome
    got: Outcome

    @property
    def same(self) -> bool:
        return self.expected == self.got


@dataclass(frozen=True)
class Trial:
    """One run killed `kills` times, in `folder`, and another one nobody kills."""

    method: str
    accumulation: int
    kills: int
    folder: Path
    steps: int = 40
    settings: Sequence[str] = ()

    def survive(self, rng: random.Random) -> Survived:
        """Kill at random steps and moments, resume to the end, and compare."""
        straight, killed, done = self.folder / "straight", self.folder / "killed", 0
        self._execute(straight, None, 0.0)
        for step in sorted(rng.sample(range(1, self.steps), self.kills)):
            done += not self._execute(killed, step, rng.uniform(0.0, 0.2))
        self._execute(killed, None, 0.0)
        return Survived(done, self._outcome(straight), self._outcome(killed))

    def _command(self, out: Path) -> list[str]:
        own = [f"optim.method={self.method}", f"train.micro_batch_size={8 // self.accumulation}"]
        own += [f"train.max_steps={self.steps}", *self.settings]
        own += ["optim.scale=0.25", "optim.train_modules=[embed_tokens,lm_head]"] if self.method == "lora" else []
        resume = ["--resume"] if (out / "recipe.yaml").exists() else []
        galore = [sys.executable, "-m", "galore.cli.main"]
        return [*galore, "train", "demo", *SETTINGS, *own, "--output-dir", str(out), *resume]

    def _execute(self, out: Path, kill_at: int | None, delay: float) -> bool:
        """Run to the end (True); or, `delay` seconds after step `kill_at` is recorded, kill -9 (False)."""
        command = self._command(out)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        while kill_at is not None and process.poll() is None:
            if steps_recorded(out) >= kill_at:
                time.sleep(delay)
                process.kill()
                process.communicate()
                return process.returncode == 0
            time.sleep(0.005)
        _, errors = process.communicate()
        if process.returncode:
            sys.exit(f"{' '.join(command)}\nexit code {process.returncode}\n{errors.decode()}")
        return True

    def _outcome(self, out: Path) -> Outcome:
        """Per-step rows and a digest of every tensor file of the last checkpoint."""
        rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        steps = [tuple(row[key] for key in COMPARED) for row in rows if row["kind"] == "train"]
        files = sorted((out / "checkpoints" / f"step-{self.steps:08d}").glob("*.safetensors"))
        return steps, {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def steps_recorded(out: Path) -> int:
    metrics = out / "metrics.jsonl"
    return metrics.read_bytes().count(b'"kind": "train"') if metrics.exists() else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=4, help="per run, six runs")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng, total = random.Random(arguments.seed), 0
    for method in METHODS:
        for accumulation in (1, 4):
            with tempfile.TemporaryDirectory() as folder:
                found = Trial(method, accumulation, arguments.kills, Path(folder)).survive(rng)
            if not found.same:
                sys.exit(f"{method}, accumulation {accumulation}: NOT the same\n{found.expected[1]}\n{found.got[1]}")
            steps, files = found.got
            print(
                f"{method:7} accumulation {accumulation}: {found.kills} kills, {len(steps)} steps and {len(files)} files "
                "bit-identical",
                flush=True,
            )
            total += found.kills
    print(f"{total} kills survived")


if __name__ == "__main__":
    main()
