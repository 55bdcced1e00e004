"""LLaMA-7B in what an RTX 4090 has: steps with a refresh, a falling loss, a checkpoint, kill -9, and on from there."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from statistics import median
from typing import Any

from gpu.records import Records
from gpu.scale import GIB, Scale

RECIPE = "llama-7b-24gb"
SAVED, KILLED, RESUMED = 4, 5, 3  # every how many steps it saves; steps before the kill; steps after it
GAP = 8  # steps between refreshes, staggered: sums of 28 whole gradients in a step; of 56 an RTX 4090 may not have room for
STEPS = 8  # of the whole run, so that no more than two checkpoints of 19 GB ever lie beside each other
ENDLESS = 100_000  # tiny ones, of which many are done before one looks
PATIENCE = 600.0
RAN_OUT = "memory ran out"  # in what a run says
RESERVE = 4.0  # seconds before this proof is stopped, in which it still tells what it has seen


def settings(scale: Scale) -> list[str]:
    """Of the run."""
    return scale.settings(
        train__global_batch_size=4,
        train__micro_batch_size=1,
        train__max_steps=ENDLESS if scale.rehearsal else STEPS,
        train__save_steps=SAVED,
        data__validation_fraction=0.02,  # of a short text, whose documents are to fill a sequence
        optim__update_proj_gap=GAP,
        optim__warmup_ratio=0,
        optim__learning_rate=0.001,  # a fifth of the recipe's, which is meant for a warm-up of thousands of steps
    )


def prove(scale: Scale, records: Records) -> None:
    from galore.trainer.machine.cards import card

    named, out = card("rtx4090"), scale.folder / "7b"
    room = named.usable_low - named.context_high
    command = scale.command("train", RECIPE, *settings(scale), "--output-dir", str(out), limit=room, cheap=True)
    try:
        first = _killed_after(KILLED, command, out, scale)
    except RuntimeError:
        _tell(_rows(out), records, room)
        raise
    _tell(first, records, room)
    saved = sorted(path.name for path in (out / "checkpoints").glob("step-*"))
    records.note("killed with -9 after a checkpoint", ok=bool(saved), checkpoints=", ".join(saved))
    command = scale.command("train", str(out / "recipe.yaml"), "--output-dir", str(out), "--resume", limit=room)
    again = _killed_after(RESUMED, command, out, scale)
    records.note("resumed after the kill", ok=again[0]["step"] > 1, first_step=again[0]["step"], steps=len(again))
    _repeated(first, again, records)


def _killed_after(count: int, command: list[str], out: Path, scale: Scale) -> list[dict[str, Any]]:
    """Run until `count` steps of this process are recorded, kill it with -9, and return their rows."""
    said = scale.folder / "7b.log"
    with said.open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=scale.environment())
    resumes, started = _events(out, "resumed after"), time.monotonic()
    rows: list[dict[str, Any]] = []
    patience = min(PATIENCE, scale.left - RESERVE)
    while process.poll() is None and len(rows) < count and time.monotonic() - started < patience:
        if RAN_OUT in said.read_text():  # what it then looks for, settings that fit, takes minutes of a 7B
            break
        time.sleep(0.1)
        begun = "--resume" not in command or _events(out, "resumed after") > resumes
        rows = _rows(out) if begun else []
    alive = process.poll() is None
    process.kill()
    process.wait()
    if alive and len(rows) < count:
        raise RuntimeError(
            f"{len(rows)} of {count} steps after {time.monotonic() - started:.0f} s: {said.read_text().strip()[-600:]}"
        )
    if not alive:
        raise RuntimeError(f"it ended by itself, exit code {process.returncode}: {said.read_text().strip()[-1500:]}")
    return _rows(out)


def _lines(out: Path) -> list[dict[str, Any]]:
    file = out / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def _events(out: Path, text: str) -> int:
    return sum(text in row.get("message", "") for row in _lines(out))


def _rows(out: Path) -> list[dict[str, Any]]:
    """Steps since the run began or was last resumed."""
    lines = _lines(out)
    begun = max((at for at, row in enumerate(lines) if "resumed after" in row.get("message", "")), default=0)
    return [row for row in lines[begun:] if row["kind"] == "train"]


def _repeated(first: list[dict[str, Any]], again: list[dict[str, Any]], records: Records) -> None:
    """What was done twice, before the kill and after it."""
    before = {row["step"]: row["loss_nats"] for row in first}
    both = {row["step"]: abs(row["loss_nats"] - before[row["step"]]) for row in again if row["step"] in before}
    if both:
        records.note(f"steps {min(both)} to {max(both)} done twice", largest_difference_nats=max(both.values()))


def _tell(rows: list[dict[str, Any]], records: Records, room: int) -> None:
    if not rows:
        records.note("LLaMA-7B: not a single step was recorded", ok=False)
        return
    losses, seconds = ([row[key] for row in rows] for key in ("loss_nats", "step_seconds"))
    shown = rows[: KILLED + RESUMED]
    records.note(
        "LLaMA-7B from scratch: the loss falls over five steps with refreshes",
        ok=len(rows) >= KILLED
        and min(losses[-2:]) < losses[0]
        and sum(row["refreshed_layers"] for row in rows[1:]) > 0,
        losses=" ".join(f"{row['loss_nats']:.3f}" for row in shown),
        refreshed=" ".join(str(row["refreshed_layers"]) for row in shown),
    )
    peak = max(row["memory_peak_bytes"] for row in rows)
    records.note("LLaMA-7B inside the memory of an RTX 4090", ok=peak <= room, peak_gib=peak / GIB, room_gib=room / GIB)
    records.note(
        "LLaMA-7B: seconds per step",
        median=median(seconds),
        each=" ".join(f"{row['step_seconds']:.2f}" for row in shown),
        tokens_per_second=rows[0]["tokens"] / median(seconds),
        mfu=median(row["mfu_fraction"] or 0.0 for row in rows),
    )
