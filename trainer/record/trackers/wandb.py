"""Weights & Biases. `WANDB_MODE`, `WANDB_PROJECT` and `WANDB_NAME` hold where the recipe is silent."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

from galore.trainer.common.errors import Interrupted, RunFailed, UserError
from galore.trainer.record.metrics import End
from galore.trainer.record.trackers.tracker import PROJECT, Start, Values

# Only what the recipe and the metrics say leaves the machine by our hand: no terminal output, no code, no git remote,
# and no command line, which wandb would take down with the machine.
PRIVATE = {"console": "off", "silent": True, "disable_git": True, "disable_code": True, "save_code": False}

EXIT_CODES: dict[End, int] = {"finished": 0, "interrupted": Interrupted.exit_code, "failed": RunFailed.exit_code}


class WandbTracker:
    """Rows over a step of their own. Offline the run lies in its directory, and the end says how it is sent."""

    def __init__(self, wandb: Any, start: Start) -> None:
        log, self._tell, self._at_the_end = start.log, start.tell, ""
        identity = start.identity("wandb")
        mode = log.wandb_mode or os.environ.get("WANDB_MODE") or "offline"
        try:
            self._run = wandb.init(
                project=log.wandb_project or os.environ.get("WANDB_PROJECT") or PROJECT,
                name=log.run_name or os.environ.get("WANDB_NAME") or start.name,
                id=identity,
                resume="allow",
                mode=mode,
                dir=str(start.run_dir.root),
                config=start.config,
                settings=wandb.Settings(**PRIVATE, **_unsaid(wandb.Settings)),
            )
            self._run.define_metric("*", step_metric="step")
        except Exception as error:
            raise UserError(f"wandb does not start: {error}", where="log.report_to", fix=_remedy(mode)) from error
        if mode == "disabled":
            self._tell("wandb is disabled by WANDB_MODE and records nothing")
        elif mode in ("online", "shared"):
            self._tell(f"wandb records at {self._run.url}")
        else:
            folder = Path(self._run.dir).parent
            self._tell(f"wandb records offline in {folder}")
            # each process of the run that was killed or stopped left one; their names begin with their time
            folders = sorted({folder, *folder.parent.glob(f"offline-run-*-{identity}")})
            self._at_the_end = f"wandb recorded offline: `wandb sync {shlex.join(map(str, folders))}` sends it"

    def log(self, step: int, values: Values) -> None:
        self._run.log({"step": step, **values})

    def close(self, end: End) -> None:
        try:
            self._run.finish(exit_code=EXIT_CODES[end])
        finally:
            if self._at_the_end:
                self._tell(self._at_the_end)


def _unsaid(settings: Any) -> dict[str, bool]:
    """The setting of this version of wandb that leaves out what it finds of command line, user and machine."""
    known = getattr(settings, "model_fields", None) or getattr(settings, "__annotations__", {})
    return {name: True for name in ("x_disable_meta", "_disable_meta") if name in known}


def _remedy(mode: str) -> str:
    if mode == "online":
        return "set WANDB_API_KEY, or log.wandb_mode: offline and `wandb sync` later"
    return "set log.report_to: none"
