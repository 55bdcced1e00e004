"""Where the seconds of a step go on the card: by the parts of a step, and the kernels that take most of them."""

from __future__ import annotations

import gzip
import json
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
    for size in scale.sizes(SIZES, TINY):
        _account(size, scale, records)


def _account(size: Size, scale: Scale, records: Records) -> None:
    out = scale.folder / f"account-{size.recipe}"
    settings = scale.settings(
        train__global_batch_size=size.rows,
        train__micro_batch_size=size.micro,
        train__max_steps=PROFILED,
        train__save_steps="null",
        optim__update_proj_gap=10_000,
        log__profile_steps=f"{PROFILED}-{PROFILED}",
    )
    run = scale.galore("train", size.recipe, *settings, "--output-dir", str(out))
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()] if run.code == 0 else []
    account = next((row["profile"] for row in rows if "profile" in row), None)
    if account is None:
        records.note(f"{size.recipe}: {run.last_lines}", ok=False)
        return
    records.note(f"{size.recipe}, a step: seconds", whole=account["seconds"], **account["parts"], **account["beside"])
    for name, (seconds, count) in _kernels(out / "profile"):
        records.note(
            f"{size.recipe}, {name}", microseconds=seconds, launches=count, share=seconds / 1e6 / account["seconds"]
        )


def _kernels(folder: Path) -> list[tuple[str, tuple[float, int]]]:
    """(name, (microseconds, launches)) of the kernels that took most, of all steps that were profiled."""
    times, counts = Counter[str](), Counter[str]()
    for file in folder.glob("*.json.gz"):
        events: list[dict[str, Any]] = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
        for each in events:
            if each.get("cat") == ON_DEVICE:
                name = each["name"][:LETTERS]
                times[name] += each["dur"]
                counts[name] += 1
    return [(name, (time, counts[name])) for name, time in times.most_common(MOST)]
