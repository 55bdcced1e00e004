"""Doctor, self-test, and the tests of the kernels on the card: every kernel × storage × side × rounding against float64."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gpu.records import Records
from gpu.scale import Scale
from gpu.shapes import EPS, compared

ROOT = Path(__file__).parents[3]
TESTS = (
    *(f"triton/test_{name}.py" for name in ("product", "adam", "lift", "quantize", "sixteen", "eight", "fused")),
    "test_host.py",
    "model/test_segments.py",
    "predict/test_timed.py",
    "../trainer/models/test_checkpointing.py",
    "../trainer/checkpoint/test_checkpoint.py",
)
REHEARSED = "card and (bf16_is_rounded_once or accumulator)"  # few, through the interpreter
WORKERS = 8  # compile at the same time
RESERVE = 6.0  # seconds that are left to tell what the tests had found, when they take too long
COUNTS = re.compile(r"(\d+) (passed|failed|errors?|skipped)")


def prove(scale: Scale, records: Records) -> None:
    _doctor(scale, records)
    if scale.rehearsal:
        records.note("left out in a rehearsal: the self-test of the card's kernels")
    else:
        _selftest(records)
    with ThreadPoolExecutor(1) as beside:
        tests = beside.submit(_against_float64, scale, records)
        _real_shapes(scale, records)
        tests.result()


def _doctor(scale: Scale, records: Records) -> None:
    told = scale.galore("doctor", "--json")
    found = json.loads(told.out) if told.code == 0 else {}
    paths = {each["op"]: each["path"] for each in found.get("kernels", [])}
    records.note("galore doctor", ok=told.code == 0, seconds=told.seconds, **(paths or {"said": told.last_lines}))


def _selftest(records: Records) -> None:
    from galore.kernels.triton.selftest import failure

    reason = failure(0)
    records.note("the kernels' self-test", ok=not reason, **({"reason": reason} if reason else {}))


def _against_float64(scale: Scale, records: Records) -> None:
    errors, chosen = scale.folder / "kernel-errors.jsonl", REHEARSED if scale.rehearsal else "card"
    options = ["-q", "--no-header", "--tb=line", "-p", "no:cacheprovider", "-p", "no:benchmark"]
    tests = [os.path.normpath(Path("tests/kernels", name)) for name in TESTS]
    command = [sys.executable, "-m", "pytest", *options, "-k", chosen, *tests]
    if importlib.util.find_spec("xdist") is not None and not scale.rehearsal:
        command += ["-n", str(min(WORKERS, os.cpu_count() or 1))]
    said = scale.folder / "kernels.log"
    code, lines = _run(
        command, said, scale.environment(GALORE_KERNEL_ERRORS=str(errors), OMP_NUM_THREADS="1"), scale.left - RESERVE
    )
    counts = {name: int(number) for number, name in COUNTS.findall(lines[-1])} if code is not None else _so_far(lines)
    records.note("kernels against float64: tests", ok=code == 0, **(counts or {"said": " | ".join(lines[-3:])[-300:]}))
    for line in [line for line in lines if _is_finding(line)][:12]:
        records.note(line[:240], ok=False)
    _largest(errors, records)


def _run(command: list[str], said: Path, environment: dict[str, str], seconds: float) -> tuple[int | None, list[str]]:
    """Exit code, None where it had not ended after `seconds`, and the lines of its output; workers may hold no pipe open."""
    with said.open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            code = process.wait(timeout=None if math.isinf(seconds) else max(1.0, seconds))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            code = None
    return code, said.read_text(errors="replace").strip().splitlines() or [""]


def _is_finding(line: str) -> bool:
    return line.startswith(("/", "E ", "FAILED")) and "Warning:" not in line


def _so_far(lines: list[str]) -> dict[str, int]:
    """Tests that had passed and failed when time was up, of pytest's dots."""
    dots = "".join(
        line.split("[")[0].strip() for line in lines if re.fullmatch(r"[.FEs]+ *(\[ *\d+%\])?", line.strip())
    )
    return {"stopped, passed": dots.count("."), "failed": dots.count("F") + dots.count("E")}


def _real_shapes(scale: Scale, records: Records) -> None:
    """One record of all, and one of each that is not as near as torch."""
    found = list(compared(scale))
    worst = max(found, key=lambda each: each.ours / (each.torch + EPS))
    records.note(
        "products of LLaMA-7B's shapes, with the tiles of training, as near to float64 as torch",
        ok=all(each.held for each in found),
        products=len(found),
        worst=worst.what,
        ours=worst.ours,
        torch=worst.torch,
    )
    for each in found:
        if not each.held:
            records.note(each.what, ok=False, ours=each.ours, torch=each.torch)


def _largest(file: Path, records: Records) -> None:
    """Per test the largest error, beside torch's in the same comparison."""
    worst: dict[str, dict[str, float]] = {}
    for line in file.read_text().splitlines() if file.exists() else ():
        each = json.loads(line)
        name = each["test"].rpartition("::")[2].partition("[")[0]
        if name not in worst or each["ours"] > worst[name]["ours"]:
            worst[name] = {"ours": each["ours"], "torch": each["torch"]}
    for name, pair in sorted(worst.items()):
        records.note(f"largest error, {name}", **pair)
