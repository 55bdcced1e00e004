"""Out of memory on purpose: the run says what was in memory and what is saved, and its advice, followed, fits."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import time
from pathlib import Path

from kill9 import steps_recorded

from gpu.records import Records
from gpu.scale import GIB, Outcome, Scale

RECIPE = "llama-350m"
LAYERS = 4  # few: the advice is found by tracing dozens of changed recipes, a second each
LIMIT = 2 * GIB  # of the allocator: enough for a few sequences at a time, not for 128
FEW, MANY = 2, 128  # sequences of a micro-batch
PATIENCE = 120.0
ADVICE = re.compile(r"galore train (.+?--resume)")


def settings(scale: Scale) -> list[str]:
    """Of the run that memory is enough for."""
    return scale.settings(
        train__global_batch_size=MANY,
        train__micro_batch_size=FEW,
        train__max_steps=1000,
        train__save_steps="null",
        data__max_length=256,
        model__num_hidden_layers=LAYERS,
        log__logging_steps=1,
    )


def prove(scale: Scale, records: Records) -> None:
    out = scale.folder / "shortage"
    first = scale.command("train", RECIPE, *settings(scale), "--output-dir", str(out), limit=LIMIT)
    _stopped_after_a_step(first, out, scale)
    saved = sorted(path.name for path in (out / "checkpoints").glob("step-*"))
    records.note("a run saved by SIGTERM, to go on from", ok=bool(saved), checkpoints=", ".join(saved))
    if scale.rehearsal:
        records.note("left out in a rehearsal: the shortage itself, and its advice followed")
        return
    wide = ["train", str(out / "recipe.yaml"), f"train.micro_batch_size={MANY}", "--output-dir", str(out), "--resume"]
    short = scale.galore(*wide, limit=LIMIT)
    told = " | ".join(
        line.strip() for line in short.errors.strip().splitlines() if "memory ran out" in line or "GiB" in line
    )
    records.note(
        "out of memory: one message, no traceback", ok=_is_one_message(short), code=short.code, said=told[-400:]
    )
    kept = sorted(path.name for path in (out / "checkpoints").glob("step-*"))
    records.note(
        "out of memory: what was saved is still there", ok=kept[-1:] == saved[-1:], checkpoints=", ".join(kept)
    )
    advice = ADVICE.search(short.errors.replace("\n", " "))
    records.note(
        "out of memory: a command is advised", ok=advice is not None, command=advice[0] if advice else short.last_lines
    )
    if advice is not None:
        _followed(advice[1], saved, out, scale, records)


def _is_one_message(outcome: Outcome) -> bool:
    return outcome.code == 1 and "Traceback" not in outcome.errors and "memory ran out" in outcome.errors


def _followed(arguments: str, saved: list[str], out: Path, scale: Scale, records: Records) -> None:
    """The advised command, word by word, under the same limit."""
    _stopped_after_a_step(scale.command("train", *shlex.split(arguments), limit=LIMIT), out, scale)
    now = sorted(path.name for path in (out / "checkpoints").glob("step-*"))
    records.note("the advice, followed, fits and goes on", ok=now[-1:] > saved[-1:], checkpoints=", ".join(now))


def _stopped_after_a_step(command: list[str], out: Path, scale: Scale) -> None:
    """Run until one more step is recorded, then ask it to save and leave."""
    before, started = steps_recorded(out), time.monotonic()
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=scale.environment()
    )
    while process.poll() is None and steps_recorded(out) <= before and time.monotonic() - started < PATIENCE:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate()
    if process.returncode != 75:
        raise RuntimeError(f"exit code {process.returncode} where 75 was expected: {errors.strip()[-800:]}")
