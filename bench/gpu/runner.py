"""Proofs one after the other, each in a process group of its own with a cap, all of them within a budget."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu.proofs import Proof, groups
from gpu.records import Record, Records
from gpu.scale import ENDS, Scale

LEAST = 10.0  # seconds that are worth beginning with
LOOK = 90.0  # for the card to answer, torch read from a cold disk
POLL = 0.05
GRACE = 3.0  # between asking a proof to stop and killing what is left of it
REHEARSED = 240  # cap of a proof in a rehearsal, seconds: of a busy machine


def run_all(proofs: Sequence[Proof], scale: Scale, file: Path, budget: float) -> bool:
    """Carry out `proofs`; returns whether every one came to its end and nothing promised failed."""
    ends = time.monotonic() + budget
    records = Records(file)
    signal.signal(signal.SIGTERM, _interrupted)
    try:
        described, wrong = _surroundings()
        records.add(Record("machine", _kind(scale), figures=described, kind="machine"))
        for line in () if scale.rehearsal else wrong:
            records.add(Record("machine", line, ok=False))
        for group in [list(proofs)] if scale.smoke else groups(proofs):
            left = ends - time.monotonic()
            if left < LEAST:
                for proof in group:
                    records.add(Record(proof.name, "left out: the budget is spent", ok=False, kind="end"))
                continue
            _carry_out(group, scale, records, left)
    except KeyboardInterrupt:
        records.add(Record("runner", "interrupted: the rest is left out", ok=False))
    return all(record.ok is not False for record in records)


def _kind(scale: Scale) -> str:
    return "rehearsal" if scale.rehearsal else "smoke" if scale.smoke else "card"


def _interrupted(*_: object) -> None:
    """As Ctrl-C does, which a shell lets a process in its background ignore."""
    raise KeyboardInterrupt


def _surroundings() -> tuple[dict[str, Any], list[str]]:
    """What `gpu.surroundings` says, in a process of its own: a CUDA context here would count in all that is measured."""
    try:
        done = subprocess.run([sys.executable, "-m", "gpu.surroundings"], capture_output=True, text=True, timeout=LOOK)
        described, wrong = json.loads(done.stdout.strip().splitlines()[-1])
    except subprocess.TimeoutExpired:
        return {}, [f"the card does not answer within {LOOK:.0f} s"]
    except (IndexError, ValueError):
        return {}, [f"the look at the card broke off: {' | '.join(done.stderr.strip().splitlines()[-2:])[-300:]}"]
    return described, wrong


def command_of(proof: Proof, scale: Scale, records: Records) -> list[str]:
    """The words that carry out one proof in a process of its own."""
    command = [sys.executable, "-m", "gpu", "one", proof.name, "--records", str(records.file)]
    return [*command, "--folder", str(scale.folder), *scale.words]


@dataclass
class _Running:
    """A proof's process, and the moment at which it is stopped."""

    proof: Proof
    process: subprocess.Popen[bytes]
    started: float
    cap: float

    def told(self) -> Record | None:
        """How it ended; None while it goes on."""
        code, seconds = self.process.poll(), time.monotonic() - self.started
        if code is None and seconds < self.cap:
            return None
        said = "done" if code == 0 else f"ended with exit code {code}"
        said = f"stopped at its cap of {self.cap:.0f} s" if code is None else said
        return Record(self.proof.name, said, ok=code == 0, figures={"seconds": round(seconds, 1)}, kind="end")


def _carry_out(group: Sequence[Proof], scale: Scale, records: Records, left: float) -> None:
    """The proofs of a group at the same time; what still runs when something breaks off here is ended, too."""
    going = []
    try:
        for proof in group:
            started, cap = (
                time.monotonic(),
                left if scale.smoke else min(REHEARSED if scale.rehearsal else proof.cap, left),
            )
            print(f"\n{proof.name}: {proof.shows} (at most {cap:.0f} s)", flush=True)
            process = subprocess.Popen(
                command_of(proof, scale, records), process_group=0, env=os.environ | {ENDS: str(started + cap)}
            )
            going.append(_Running(proof, process, started, cap))
        while going:
            for each in [each for each in going if each.told()]:
                end = each.told()
                assert end is not None
                _end_group(each.process)
                records.add(end)
                going.remove(each)
            time.sleep(POLL)
    finally:
        for each in going:
            _end_group(each.process)


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
