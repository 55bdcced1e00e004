"""Runs carried out by the ranks that the environment names: `python two_runs.py JOBS.json` leaves JOBS.json.RANK."""

from __future__ import annotations

import gc
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import torch

from galore.trainer.common.errors import UserError
from galore.trainer.follow import follow
from galore.trainer.machine import hardware
from galore.trainer.parallel.group import Group, join, leave
from galore.trainer.recipe.load import load_recipe
from galore.trainer.record.metrics import Silent
from galore.trainer.record.shown import report
from galore.trainer.run import run_training


class Header(Silent):
    """The first lines that a run shows."""

    def __init__(self) -> None:
        self.lines: dict[str, Any] = {}

    def start(self, header: dict[str, Any], total_steps: int) -> None:
        self.lines = header


def carry_out(job: dict[str, Any], group: Group | None) -> dict[str, Any]:
    """What a job showed, or the error that ended it. `since` names a run that is taken up at its last checkpoint but one."""
    gc.freeze()  # every run collects garbage; what the libraries have made is none
    out, console = Path(job["out"]), Header()
    before = dict(group.sent) if group else {}
    try:
        loaded = load_recipe(job["recipe"], job["overrides"])
        if group is None or group.is_first:
            if "since" in job:
                shutil.copytree(job["since"], out)
                shutil.rmtree(max((out / "checkpoints").glob("step-*")))
            run_training(loaded, out, "since" in job, console, group=group)
        else:
            follow(loaded, group)
    except UserError as error:
        return {"error": type(error).__name__, "code": error.exit_code, "text": str(error)}
    sent = {kind: count - before.get(kind, 0) for kind, count in group.sent.items()} if group else {}
    return {"header": console.lines, "sent": sent}


if __name__ == "__main__":
    torch.set_num_threads(1)
    report.draw = lambda history: {}  # type: ignore[assignment]
    hardware.measure_gemm = lambda *_, **__: 1e11  # type: ignore[assignment]
    joined = join("cpu")
    assert joined is not None
    jobs = json.loads(Path(sys.argv[1]).read_text())
    found = {name: carry_out(job, joined) for name, job in jobs.items()}
    Path(f"{sys.argv[1]}.{joined.rank}").write_text(json.dumps(found))
    leave()
    os._exit(0)  # no clean-up of threads that a test would wait for
