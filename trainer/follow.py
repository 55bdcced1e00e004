"""A run of several processes: rank 0 leads it and writes all that it leaves, the others follow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from galore.trainer.build import Run, build
from galore.trainer.common.errors import RunFailed, UserError
from galore.trainer.data.batch import silent
from galore.trainer.loop import train
from galore.trainer.machine.signals import StopOnSignal
from galore.trainer.parallel.group import Group, RankLost, ToldElsewhere, require_same_weights
from galore.trainer.recipe.load import LoadedRecipe
from galore.trainer.record.continued import going_on
from galore.trainer.record.metrics import SILENT, Metrics, read_rows
from galore.trainer.record.rundir import RunDir
from galore.trainer.recorder import Meter, Recorder


def lead(run: Run, group: Group) -> None:
    """Let the others build the same run: its data are in the cache by now, and its checkpoint was chosen."""
    held_out = (row for row in read_rows(run.directory.metrics) if row.get("kind") == "eval")
    scored = [{**row, "sample": None, "question": None} for row in held_out]
    told = {"root": str(run.directory.root.resolve()), "fresh": run.directory.fresh, "step": run.first_step}
    group.from_first({**told, "evaluations": scored})
    require_same_weights(run.model, group)


@contextmanager
def telling(group: Group | None) -> Iterator[None]:
    """Where rank 0 breaks off before it leads, the others hear with which exit code, and leave the telling to it."""
    try:
        yield
    except UserError as error:
        if group is not None:
            with suppress(RankLost):  # the others may have met the same, and be gone
                group.from_first({"ended": error.exit_code})
        raise


def follow(loaded: LoadedRecipe, group: Group) -> None:
    """Take every step of the run that rank 0 carries out, on this rank's share of each batch, and write nothing.

    Raises:
        Interrupted, Ended: as on rank 0. RunFailed: this rank does not have what rank 0 has. ToldElsewhere: rank 0
            tells why there is no run.
    """
    told = group.from_first()
    if told is None:
        return
    if "ended" in told:
        raise ToldElsewhere(told["ended"])
    directory = RunDir(Path(told["root"]), fresh=told["fresh"])
    if not (directory.root if "begins" in told else directory.recipe).exists():
        what = f"rank {group.rank} finds no run here, which rank 0 has begun"
        raise RunFailed(what, where=told["root"], fix="keep runs on a file system that all machines share")
    run = build(loaded if directory.fresh else going_on(loaded, directory), directory, SILENT, silent, group)
    try:
        if "begins" in told:
            told = group.from_first()
            if "ended" in told:
                raise ToldElsewhere(told["ended"])
        if run.first_step != told["step"]:
            what = f"rank {group.rank} goes on after step {run.first_step}, rank 0 after {told['step']}"
            raise RunFailed(what, where=told["root"], fix="keep runs on a file system that all machines share")
        require_same_weights(run.model, group)
        metrics, meter = Metrics.unwritten(told["evaluations"]), Meter.unknown(run.device)
        recorder = Recorder(metrics, SILENT, meter, run.device, 0)
        if run.checkpoint is not None:
            recorder.go_on_from(run.checkpoint.state)
        with StopOnSignal(SILENT.notice) as stop:
            train(run, recorder, stop)
    finally:
        run.optimizer.release()
