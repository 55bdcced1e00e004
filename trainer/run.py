"""`galore train` below its command line: a directory, a lock, a run, its records and its report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from galore.trainer.build import Run, build
from galore.trainer.checkpoint import bytes_for, most_beside
from galore.trainer.data.batch import Progress, silent
from galore.trainer.data.labelled import LabelledData
from galore.trainer.diskspace import require_for_run
from galore.trainer.errors import UserError
from galore.trainer.facts import facts, header, now
from galore.trainer.identity import files_of, identity
from galore.trainer.loop import train
from galore.trainer.memory.forecast import forecast
from galore.trainer.memory.live import current_and_peak, forget_peak
from galore.trainer.memory.verdict import VERDICTS, reason
from galore.trainer.metrics import Console, Metrics
from galore.trainer.recipe.load import LoadedRecipe
from galore.trainer.record import Meter, Recorder
from galore.trainer.report import write_report
from galore.trainer.rundir import RunDir
from galore.trainer.runmodel import save_model_files, stored_config
from galore.trainer.scoring import Result, baseline_facts
from galore.trainer.signals import StopOnSignal
from galore.trainer.state import planned_bytes
from galore.trainer.wandb_sink import make_sink


def run_training(
    loaded: LoadedRecipe, output_dir: Path, resume: bool, console: Console, progress: Progress = silent
) -> Path:
    """Carry out a recipe in `output_dir`, or go on with the run that is there; returns the report's path.

    Raises:
        UserError: bad input (exit code 2); RunFailed (1); Interrupted (75) once the state is saved.
    """
    directory = RunDir.create(output_dir, resume)
    with directory.locked():
        forget_peak()
        baseline = current_and_peak("cpu").current
        run = build(loaded, directory, console, progress)
        try:
            _require_disk(run)
            # before all else: it is what makes the directory a run to resume
            directory.replace(directory.recipe, loaded.text)
            _carry_out(run, _recorder(run, console, baseline))
        finally:
            run.optimizer.release()  # its hooks and the model hold each other, where no garbage collector sees it
    return directory.report


def _carry_out(run: Run, recorder: Recorder) -> None:
    try:
        _begin(run, recorder)
        with StopOnSignal(run.console.notice) as stop:
            result = train(run, recorder, stop)
        _end(run, result)
    finally:
        recorder.metrics.close()
        run.console.close()
        _report(run.directory, run.console)


def _require_disk(run: Run) -> None:
    """Raise RunFailed where the last checkpoint would not fit."""
    settings, first, last = run.recipe.train, run.first_step, run.total_steps
    every = settings.save_steps or last
    saves = -(-last // every) - first // every if first < last else 0  # the last step is one of them
    most = most_beside(run.directory.checkpoints, saves, settings.save_total_limit)
    require_for_run(run.directory.root, most, bytes_for(planned_bytes(run.model, run.optimizer)))


def _report(directory: RunDir, console: Console) -> None:
    """Write the report; a failure here must not hide how the run ended."""
    if directory.is_lost:  # the error that ends the run says so
        return
    try:
        write_report(directory)
    except UserError as error:
        console.message(str(error))


def _recorder(run: Run, console: Console, baseline: int) -> Recorder:
    dtype = next(run.model.parameters()).dtype
    meter = Meter.of(run.model, run.device, dtype, _length(run))
    resume_step = None if run.directory.fresh else run.first_step
    sink = make_sink(run.recipe, run.directory, console.message)
    run.directory.require_own()
    metrics = Metrics.open(run.directory.metrics, resume_step, warn=console.message, sink=sink)
    recorder = Recorder(metrics, console, meter, run.device, 0 if run.device.type == "cuda" else baseline)
    if run.checkpoint is not None:
        recorder.go_on_from(run.checkpoint.state)
    return recorder


def _length(run: Run) -> int:
    """Tokens of a sequence, for the operations that attention takes."""
    return run.data.mean_length if isinstance(run.data, LabelledData) else run.recipe.data.max_length


def _begin(run: Run, recorder: Recorder) -> None:
    known: dict[str, Any] = {} if run.directory.fresh else run.directory.read_facts()
    if not known:
        known = facts(run, run.recipe.log.run_name or run.directory.root.resolve().name)
        known |= baseline_facts(run.data) if run.has_validation else {}
    if not run.directory.fresh:
        known["resumes"] = [*known.get("resumes", []), {"step": run.first_step, "time": now()}]
    known["peak"] = {"flops_per_second": recorder.meter.peak.flops_per_second, "basis": recorder.meter.peak.basis}
    expected = forecast(run)
    if expected is not None:
        known["expected_memory"] = expected.as_json()
    trained = files_of(run.checkpoint.state) if run.checkpoint is not None else {}
    files = save_model_files(run.model, run.data.tokenizer, run.directory, trained, run.console.message)
    run.made_with |= identity(run.recipe, stored_config(run.model), files)
    run.directory.write_facts(known)
    memory = {"memory": f"{VERDICTS[expected.fits]}. {reason(expected)}"} if expected is not None else {}
    recorder.console.start(header(run, recorder.meter) | memory, run.total_steps)
    if run.first_step:
        recorder.event(run.first_step, _resumed(run))


def _resumed(run: Run) -> str:
    if run.first_step < run.total_steps:
        return f"resumed after step {run.first_step}"
    return f"finished already, after step {run.first_step} of {run.total_steps}: nothing is left to do"


def _end(run: Run, result: Result | None) -> None:
    known = run.directory.read_facts()
    final: dict[str, Any] = {**known.get("final", {}), "step": run.total_steps}  # a finished run may be resumed, too
    if result is not None:
        final |= result.final()
    run.directory.write_facts(known | {"finished": now(), "final": final})
