"""Trackio: a dashboard on this machine, or in a Space or on a server that its own environment variables name."""

from __future__ import annotations

import inspect
import io
import uuid
from contextlib import redirect_stdout
from typing import Any

from galore.trainer.record.metrics import End
from galore.trainer.record.trackers.tracker import PROJECT, Start, Values, numbers

# Curves of the run alone, and a Space that it makes is nobody else's to read. Versions differ in what they know.
PRIVATE = {"auto_log_gpu": False, "auto_log_cpu": False, "embed": False, "private": True}


class TrackioTracker:
    """A run is found again by its name, so its name has an id."""

    def __init__(self, trackio: Any, start: Start) -> None:
        known = inspect.signature(trackio.init).parameters
        project = start.log.wandb_project or PROJECT
        name = start.identity("trackio", lambda: f"{start.log.run_name or start.name}-{uuid.uuid4().hex[:6]}")
        private = {each: value for each, value in PRIVATE.items() if each in known}
        # it prints in colours, whatever the output is
        with redirect_stdout(io.StringIO()):
            self._run = trackio.init(project=project, name=name, config=start.config, resume="allow", **private)
        start.tell(f"trackio records in project {project}: `trackio show` shows the curves")

    def log(self, step: int, values: Values) -> None:
        self._run.log(numbers(values), step=step)

    def close(self, end: End) -> None:
        with redirect_stdout(io.StringIO()):
            self._run.finish()
