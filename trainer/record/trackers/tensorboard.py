"""TensorBoard: event files in the run's directory, which `tensorboard --logdir` shows for all runs below a folder."""

from __future__ import annotations

import shlex
from typing import Any

from galore.trainer.recipe.dump import dotted
from galore.trainer.record.metrics import End
from galore.trainer.record.trackers.tracker import Start, Values, numbers


class TensorBoardTracker:
    """One curve a name. A resumed run hides what an earlier process wrote of the steps that are computed again."""

    def __init__(self, tensorboard: Any, start: Start) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = start.run_dir.tracker_folder("tensorboard")
        purge = start.step + 1 if folder.is_dir() else None
        self._writer: Any = SummaryWriter(str(folder), purge_step=purge)
        rows = "\n".join(f"| {name} | {value} |" for name, value in dotted(start.config))
        self._writer.add_text("recipe", f"| key | value |\n|---|---|\n{rows}", start.step)
        start.tell(f"TensorBoard: `tensorboard --logdir {shlex.quote(str(start.run_dir.root))}` shows the curves")

    def log(self, step: int, values: Values) -> None:
        for name, value in numbers(values).items():
            self._writer.add_scalar(name, value, step)

    def close(self, end: End) -> None:
        self._writer.close()
