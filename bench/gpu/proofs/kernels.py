"""Doctor, self-test, and the tests of the kernels on the card: every kernel × storage × side × rounding against float64."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

from gpu.records import Records
from gpu.scale import Scale

ROOT = Path(__file__).parents[3]
TESTS = ("test_product.py", "test_adam.py", "test_lift.py", "test_quantize.py")
REHEARSED = "card and (bf16_is_rounded_once or accumulator)"  # few, through the interpreter
WORKERS = 8  # compile at the same time
COUNTS = re.compile(r"(\d+) (passed|failed|errors?|skipped)")


def prove(scale: Scale, records: Records) -> None:
    _doctor(scale, records)
    if scale.rehearsal:
        records.note("left out in a rehearsal: the self-test of the card's kernels")
    else:
        _selftest(records)
    _against_float64(scale, records)


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
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", "-k", chosen]
    command += ["--tb=line", *(f"tests/kernels/triton/{name}" for name in TESTS)]
    if importlib.util.find_spec("xdist") is not None and not scale.rehearsal:
        command += ["-n", str(min(WORKERS, os.cpu_count() or 1))]
    environment = scale.environment(GALORE_KERNEL_ERRORS=str(errors))
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    counts = {name: int(number) for number, name in COUNTS.findall(done.stdout.strip().splitlines()[-1])}
    records.note("kernels against float64: tests", ok=done.returncode == 0, **counts)
    for line in [line for line in done.stdout.splitlines() if line.startswith(("/", "E ", "FAILED"))][:12]:
        records.note(line[:240], ok=False)
    _largest(errors, records)


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
