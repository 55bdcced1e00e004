"""Tiny runs of every method: their overrides, the data they read, and what is compared of two of them."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prove.child import Ended, run, verb
from prove.shim import Fault, How, Operation, operations
from prove.trials import Trials

STEPS, SAVE = 8, 3
BASE = {
    "model.hidden_size": 32,
    "model.intermediate_size": 48,
    "model.num_hidden_layers": 2,
    "model.num_attention_heads": 2,
    "model.max_position_embeddings": 64,
    "data.source": "local",
    "data.tokenizer_vocab_size": 300,
    "data.max_length": 64,
    "data.validation_fraction": 0.1,
    "optim.rank": 8,
    "optim.update_proj_gap": 3,
    "train.device": "cpu",
    "train.num_threads": 1,
    "train.max_steps": STEPS,
    "train.global_batch_size": 4,
    "train.micro_batch_size": 4,
    "train.save_steps": SAVE,
    "eval.eval_steps": 4,
    "eval.max_tokens": 256,
    "eval.sample_tokens": 4,
    "log.logging_steps": 1,
}
LORA = {"optim.method": "lora", "optim.rank": 4, "optim.learning_rate": 0.001}
INSTRUCT = {"data.prompt_field": "instruction", "data.response_field": "output", "eval.sample_prompt": "null"}
STREAM = {"data.source": "hub", "data.shuffle_buffer_size": 100, "eval.sample_prompt": "null"}
METHODS: dict[str, dict[str, object]] = {
    "galore": {},
    "full": {"optim.method": "full", "optim.learning_rate": 0.001},
    "immediate": {
        "optim.update": "immediate",
        "optim.refresh": "first-micro-batch",
        "optim.max_grad_norm": "null",
    },
    "lora": LORA,
    "galore-8bit": {"optim.state_dtype": "8bit"},
    "int8": {"optim.weight_dtype": "int8"},
    "frugal": {"optim.residual": "frugal"},
    "instruct": INSTRUCT,
    "galore-fp8": {"optim.state_dtype": "fp8"},
    "fira": {"optim.residual": "fira"},
    "apollo": {"optim.residual": "apollo", "optim.proj_type": "random"},
    "accumulate": {"train.micro_batch_size": 1, "optim.accumulator_dtype": "bfloat16"},
    "dropout": LORA | {"optim.lora_dropout": 0.3},
    "relora": LORA | {"optim.adapter": "relora", "optim.relora_gap": 4},
    "factors": LORA | {"optim.adapter": "factors"},
    "muon": {"optim.inner": "muon"},
    "sumo": {"optim.inner": "sumo"},
    "adafactor": {"optim.inner": "adafactor"},
    "compensated": {"optim.weight_rounding": "compensated"},
    "two-pass": {"optim.refresh": "two-pass", "optim.stagger": "false", "train.micro_batch_size": 2},
    "svd-int4": {"optim.proj_type": "svd", "optim.projector_dtype": "int4", "train.micro_batch_size": 2},
    "random": {"optim.proj_type": "random"},
    "frugal-int8-8bit": {"optim.residual": "frugal", "optim.weight_dtype": "int8", "optim.state_dtype": "8bit"},
    "paper": {"data.packing": "paper", "optim.refresh_overlap": 0.3, "data.shuffle": "false"},
    "checkpointed": {"train.gradient_checkpointing": "true", "train.z_loss": 0.0001, "optim.proj_type": "power"},
    "stream": STREAM,
    "stream-instruct": STREAM | INSTRUCT,
}
VOLATILE = ("seconds", "per_second", "mfu", "memory")  # parts of the names of what a clock or the machine decides
KEPT_ROWS = "metrics.jsonl."  # rows of a run that had no checkpoint to go on from, put aside
WORDS = (
    "the",
    "a",
    "of",
    "and",
    "to",
    "in",
    "he",
    "that",
    "it",
    "was",
    "his",
    "as",
    "with",
    "be",
    "god",
    "lord",
    "man",
    "day",
)


def make_data(folder: Path) -> Path:
    """`plain.jsonl` and `hub/`: texts, instructions and answers; the same ones every time."""
    draw = random.Random(0)

    def say(words: int) -> str:
        return " ".join(draw.choice(WORDS) for _ in range(words))

    def rows(count: int) -> str:
        made = ({"text": say(60), "instruction": say(4), "output": say(draw.randint(1, 9))} for _ in range(count))
        return "".join(json.dumps(row) + "\n" for row in made)

    (folder / "hub").mkdir(parents=True, exist_ok=True)
    (folder / "plain.jsonl").write_text(rows(300))
    (folder / "hub/train.jsonl").write_text(rows(300))
    (folder / "hub/validation.jsonl").write_text(rows(30))
    return folder


class Runs:
    """Runs of one part, on data and in a cache of its own."""

    def __init__(self, trials: Trials) -> None:
        self.trials = trials
        self.data = make_data(trials.folder / "data")
        self.cache = trials.folder / "cache"

    def overrides(self, method: str = "galore", **own: object) -> list[str]:
        """For instance `train__max_steps=1`."""
        chosen = BASE | METHODS[method] | {name.replace("__", "."): value for name, value in own.items()}
        hub = chosen["data.source"] == "hub"
        chosen = {"data.path": self.data / ("hub" if hub else "plain.jsonl"), "data.cache_dir": self.cache} | chosen
        return [f"{name}={value}" for name, value in chosen.items()]

    def words(self, out: Path, method: str = "galore", resume: bool = False, **own: object) -> list[str]:
        """The command line of a run, or of its resumption."""
        end = ["--output-dir", str(out), *(["--resume"] if resume else [])]
        return ["train", "demo", *self.overrides(method, **own), *end]

    def galore(self, words: Sequence[object], **how: Any) -> Ended:
        """Carry out a verb in a child."""

        def work() -> None:
            calm()
            verb(*words)()

        return run(work, self.trials.said, **how)

    def made(self, name: str, method: str = "galore", **own: object) -> Path:
        """A finished run that is there for all trials; made when it is asked for first. `life` tells its operations."""
        path = self.trials.folder / name
        if not path.exists():
            words = self.words(path, method, **own)
            must(self.galore(words, fault=Fault(), watch=[path], log=path.with_suffix(".log")), 0)
        return path

    def life(self, run: Path) -> list[Operation]:
        """The file operations of a run that was `made`."""
        return operations(run.with_suffix(".log"))

    def half(self, name: str = "half", method: str = "galore") -> Path:
        """A run that was killed after its second save, for all trials."""
        path = self.trials.folder / name
        if not path.exists():
            saved = f"step-{2 * SAVE:08d}"
            life = self.life(self.made(f"{name}-whole", method))
            after = next(op.number for op in life if op.name == "rename" and op.path.endswith(saved))
            fault = Fault(How.KILL_BEFORE, after + 12)
            must(self.galore(self.words(path, method), fault=fault, watch=[path]), -9)
        return path

    def finished(self, path: Path, method: str = "galore", **how: Any) -> Ended:
        """Resume it to its end."""
        return self.galore(self.words(path, method, resume=True), **how)


def nothing_there(ended: Ended) -> bool:
    """Whether a resumption found that the run had not begun when it was stopped."""
    return ended.code == 2 and any(reason in ended.said for reason in ("holds no run", "there is no such directory"))


def must(ended: Ended, code: int) -> None:
    """Raise RuntimeError unless what no trial is about went as it should."""
    if ended.code != code:
        raise RuntimeError(f"a run that trials begin with: {ended}")


def calm() -> None:
    """Nothing in this child is timed, and no picture drawn: both take most of a tiny run's time."""
    from galore.trainer import recorder
    from galore.trainer.machine.hardware import Peak
    from galore.trainer.record.shown import report

    recorder.device_peak = lambda *_: Peak(1e12, "fixed", "cpu")
    report.draw = lambda _: {}


def digests(folder: Path, but: Sequence[str] = ()) -> dict[str, str]:
    """SHA-256 of each file below `folder` by its relative path; links and folders by what they are."""
    found = {}
    for path in sorted(folder.rglob("*")) if folder.exists() else ():
        name = path.relative_to(folder).as_posix()
        if not any(part in name for part in but):
            whole = path.is_file() and not path.is_symlink()
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest() if whole else "no file"
    return found


def outcome(path: Path) -> tuple[dict[str, str], list[dict[str, Any]], list[str]]:
    """What a run came to: digests of its checkpoints, rows of its metrics, names of all that is in its folder."""
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    steady = [
        {name: value for name, value in row.items() if not any(part in name for part in VOLATILE)}
        for row in rows
        if row["kind"] != "event"
    ]
    return digests(path / "checkpoints"), steady, [name for name in sorted(digests(path)) if KEPT_ROWS not in name]


def different(expected: Any, got: Any) -> str | None:
    """The first difference of two outcomes; None where there is none."""
    if expected == got:
        return None
    files = sorted(name for name in expected[0].keys() | got[0].keys() if expected[0].get(name) != got[0].get(name))
    if files:
        return f"other checkpoints: {', '.join(files[:4])}"
    if expected[2] != got[2]:
        return f"other files: {', '.join(sorted(set(expected[2]) ^ set(got[2]))[:4])}"
    rows = [index for index, (a, b) in enumerate(zip(expected[1], got[1], strict=False)) if a != b]
    return f"other rows of metrics: {rows[:4]} of {len(expected[1])} and {len(got[1])}"
