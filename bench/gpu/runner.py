"""Proofs one after the other, each in a process group of its own with a cap, all of them within a budget."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from gpu.proofs import Proof
from gpu.records import Record, Records
from gpu.scale import ENDS, Scale
from gpu.surroundings import described, wrong

LEAST = 10.0  # seconds that are worth beginning with
GRACE = 3.0  # between asking a proof to stop and killing what is left of it
REHEARSED = 240  # cap of a proof in a rehearsal, seconds: of a busy machine


def run_all(proofs: Sequence[Proof], scale: Scale, file: Path, budget: float) -> bool:
    """Carry out `proofs`; returns whether every one came to its end and nothing promised failed."""
    ends = time.monotonic() + budget
    records = Records(file)
    records.add(Record("machine", "rehearsal" if scale.rehearsal else "card", figures=described(), kind="machine"))
    for line in () if scale.rehearsal else wrong():
        records.add(Record("machine", line, ok=False))
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        for proof in proofs:
            left = ends - time.monotonic()
            if left < LEAST:
                records.add(Record(proof.name, "left out: the budget is spent", ok=False, kind="end"))
                continue
            _carry_out(proof, scale, records, min(REHEARSED if scale.rehearsal else proof.cap, left))
    except KeyboardInterrupt:
        records.add(Record("runner", "interrupted: the rest is left out", ok=False))
    return all(record.ok is not False for record in records)


def command_of(proof: Proof, scale: Scale, records: Records) -> list[str]:
    """The words that carry out one proof in a process of its own."""
    command = [sys.executable, "-m", "gpu", "one", proof.name, "--records", str(records.file)]
    return [*command, "--folder", str(scale.folder), *(["--rehearse"] if scale.rehearsal else [])]


def _carry_out(proof: Proof, scale: Scale, records: Records, cap: float) -> None:
    print(f"\n{proof.name}: {proof.shows} (at most {cap:.0f} s)", flush=True)
    started = time.monotonic()
    environment = os.environ | {ENDS: str(started + cap)}
    process = subprocess.Popen(command_of(proof, scale, records), process_group=0, env=environment)
    try:
        code, said = process.wait(timeout=cap), ""
    except subprocess.TimeoutExpired:
        code, said = 1, f"stopped at its cap of {cap:.0f} s"
    finally:
        _end_group(process)
    said = said or ("done" if code == 0 else f"ended with exit code {code}")
    figures = {"seconds": round(time.monotonic() - started, 1)}
    records.add(Record(proof.name, said, ok=said == "done", figures=figures, kind="end"))


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Whatever the proof started goes with it: a process left behind would hold the card's memory."""
    for wish in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, wish)
        except ProcessLookupError:
            break
        deadline = time.monotonic() + GRACE
        while time.monotonic() < deadline and _alive(process):
            time.sleep(0.05)
    process.wait()


def _alive(process: subprocess.Popen[bytes]) -> bool:
    process.poll()
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True
