"""Where the seconds of a step go on the card: by the parts of a step, and the kernels that take most of them."""

from __future__ import annotations

import gzip
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from gpu.proofs.speed import SIZES, Size
from gpu.records import Records
from gpu.scale import Scale

TINY = (Size("llama-60m-galore", 2, 1, 1),)
PROFILED = 6  # of as many steps: by then all is compiled
MOST = 12  # kernels that are told
LETTERS = 60  # of a kernel's name
ON_DEVICE = "kernel"


def prove(scale: Scale, records: Records) -> None:
    for size in scale.sizes(SIZES[::-1], TINY):
        _account(size, scale, records)


def settings(size: Size, scale: Scale) -> list[str]:
    """Of the run whose last step is traced."""
    common = scale.settings(
        train__global_batch_size=size.rows,
        train__micro_batch_size=size.micro,
        train__max_steps=PROFILED,
        train__save_steps="null",
        optim__update_proj_gap=10_000,
        log__profile_steps=f"{PROFILED}-{PROFILED}",
    )
    return [*common, *size.settings]


def _account(size: Size, scale: Scale, records: Records) -> None:
    from galore.trainer.time.account import host_seconds

    out = scale.folder / f"account-{size.recipe}"
    run = scale.galore("train", size.recipe, *settings(size, scale), "--output-dir", str(out))
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()] if run.code == 0 else []
    account = next((row["profile"] for row in rows if "profile" in row), None)
    if account is None:
        records.note(f"{size.name}: {run.last_lines}", ok=False)
        return
    records.note(f"{size.name}, a step: seconds", whole=account["seconds"], **account["parts"], **account["beside"])
    traces = list((out / "profile").glob("*.json.gz"))
    for file in traces:
        shutil.copy(file, records.file.parent / f"{size.recipe}-{file.name}")  # for a closer look
    events = [event for file in traces for event in _events(file)]
    launches = sum(each.get("cat") == ON_DEVICE for each in events)
    records.note(f"{size.name}, the host meanwhile: seconds", **host_seconds(events), launches=launches)
    for name, (seconds, count) in _kernels(events):
        records.note(
            f"{size.name}, {name}", microseconds=seconds, launches=count, share=seconds / 1e6 / account["seconds"]
        )


def _events(file: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    return found


def _kernels(events: list[dict[str, Any]]) -> list[tuple[str, tuple[float, int]]]:
    """(name, (microseconds, launches)) of the kernels that took most."""
    times, counts = Counter[str](), Counter[str]()
    for each in events:
        if each.get("cat") == ON_DEVICE:
            name = each["name"][:LETTERS]
            times[name] += each["dur"]
            counts[name] += 1
    return [(name, (time, counts[name])) for name, time in times.most_common(MOST)]
