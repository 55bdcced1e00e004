"""At which size the proofs run: on a card as they are meant, in a rehearsal on the CPU with the same code and tiny shapes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
GIB = 2**30
ENDS = "GALORE_GPU_ENDS"  # in the environment: the moment (time.monotonic) at which the runner stops the proof
TEXT = ["data.source=packaged", "data.path=null", "data.hub_config=null", "data.tokenizer=null", "data.packing=packed"]
TINY = {
    "model.hidden_size": 64,
    "model.intermediate_size": 96,
    "model.num_hidden_layers": 2,
    "model.num_attention_heads": 2,
    "model.vocab_size": 512,
    "model.max_position_embeddings": 64,
    "data.max_length": 64,
    "data.tokenizer_vocab_size": 300,
    "optim.rank": 16,
    "train.micro_batch_size": 1,
    "train.global_batch_size": 2,
}
BATCH = frozenset({"train.micro_batch_size", "train.global_batch_size"})


@dataclass(frozen=True)
class Scale:
    """`rehearsal`: on the CPU, tiny; `folder` holds what proofs write beside their records. `smoke`: on the card, all proofs at
    once, to see what breaks there: of what is timed the first size, and once."""

    rehearsal: bool
    folder: Path
    smoke: bool = False
    most: int | None = None  # sizes that are timed of each proof

    @property
    def device(self) -> str:
        return "cpu" if self.rehearsal else "cuda"

    @property
    def words(self) -> list[str]:
        """What tells the process of a proof which of them this is."""
        few = [] if self.most is None else ["--sizes", str(self.most)]
        return ["--rehearse"] * self.rehearsal + ["--smoke"] * self.smoke + few

    def sizes(self, real: tuple[T, ...], tiny: tuple[T, ...]) -> tuple[T, ...]:
        """Which sizes are timed."""
        return tiny if self.rehearsal else real[: 1 if self.smoke else self.most]

    def turns(self, count: int) -> int:
        """How often each of them is timed."""
        return 1 if self.rehearsal or self.smoke else count

    @property
    def left(self) -> float:
        """Seconds until this proof is stopped."""
        return float(os.environ.get(ENDS, "inf")) - time.monotonic()

    def settings(self, **own: object) -> list[str]:
        """Overrides for the packaged text, with `own` settings (`train__max_steps=3`); tiny ones win in a rehearsal."""
        chosen: dict[str, object] = {"data.tokenizer_vocab_size": 2048, "eval.sample_prompt": "null"}
        chosen |= {"log.report_to": "none", "train.device": self.device}
        chosen |= {name.replace("__", "."): value for name, value in own.items()}
        return [*TEXT, *(f"{name}={value}" for name, value in chosen.items()), *self.tiny(but=BATCH & chosen.keys())]

    def tiny(self, but: Collection[str] = ()) -> list[str]:
        """In a rehearsal the overrides that make a run small, but those named; on a card none."""
        return [f"{name}={value}" for name, value in TINY.items() if name not in but] if self.rehearsal else []

    def galore(self, *arguments: str, limit: int | None = None, timeout: float | None = None) -> Outcome:
        """`galore …` in a process of its own, which may take no more than `limit` bytes of the card."""
        started = time.perf_counter()
        done = subprocess.run(
            self.command(*arguments, limit=limit),
            capture_output=True,
            text=True,
            timeout=timeout,
            env=self.environment(),
        )
        return Outcome(done.returncode, done.stdout, done.stderr, time.perf_counter() - started)

    def command(self, *arguments: str, limit: int | None = None, cheap: bool = False) -> list[str]:
        """The words that start `galore …`, on a machine that has no such script, too; `cheap`: see `gpu.cheap`."""
        limited = [] if limit is None or self.rehearsal else ["--limit", str(limit)]
        return [sys.executable, "-m", "gpu.limited", *["--cheap"] * cheap, *limited, *arguments]

    def asked(self, module: str, verb: str, order: dict[str, Any], **more: str) -> Any:
        """What `python -m module verb order` says in a process of its own, as JSON; {"failed": …} where it breaks off."""
        order = {"rehearsal": self.rehearsal, "folder": str(self.folder)} | order
        command = [sys.executable, "-m", module, verb, json.dumps(order)]
        done = subprocess.run(command, capture_output=True, text=True, env=self.environment(**more))
        if done.returncode:
            return {"failed": " | ".join(done.stderr.strip().splitlines()[-2:])[-300:]}
        return json.loads(done.stdout.strip().splitlines()[-1])

    def environment(self, **more: str) -> dict[str, str]:
        """Of a process: caches in the folder of the proof, no network."""
        return os.environ | {"GALORE_CACHE": str(self.folder / "cache"), "HF_HUB_OFFLINE": "1"} | more


@dataclass(frozen=True)
class Outcome:
    """How a process ended, and in how many seconds."""

    code: int
    out: str
    errors: str
    seconds: float

    @property
    def last_lines(self) -> str:
        return " | ".join((self.errors.strip() or self.out.strip()).splitlines()[-6:])[-600:]
