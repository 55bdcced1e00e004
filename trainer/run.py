"""`galore train` below its command line: a directory, a lock, a run, its records and its report."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from galore.trainer.build import Run, build
from galore.trainer.checkpoint.checkpoint import newest_verified
from galore.trainer.checkpoint.finite import not_finite
from galore.trainer.checkpoint.identity import files_of, identity, require_same_files, require_same_recipe
from galore.trainer.checkpoint.rotation import step_directories
from galore.trainer.common.errors import Interrupted, UserError, described
from galore.trainer.common.printable import LONGEST_LINE, masked, shortened
from galore.trainer.data.batch import Progress, Result, silent
from galore.trainer.data.notices import notices
from galore.trainer.evaluate import final_of, require_held_out, require_sample
from galore.trainer.facts import facts, header, now
from galore.trainer.fit.forecast import forecast
from galore.trainer.follow import lead, telling
from galore.trainer.loop import train
from galore.trainer.machine.power import PowerMeter
from galore.trainer.machine.signals import StopOnSignal
from galore.trainer.memory.live import current_and_peak, forget_peak
from galore.trainer.memory.verdict import VERDICTS, reason
from galore.trainer.models.adapters.lora import stored_config
from galore.trainer.parallel.group import Group
from galore.trainer.recipe.extras import missing, no_plots, refuse_missing_extras
from galore.trainer.recipe.load import LoadedRecipe, recipe_of_run
from galore.trainer.recipe.schema.recipe import Recipe
from galore.trainer.record.callbacks import Callbacks
from galore.trainer.record.continued import going_on, refuse_other_mathematics, trained_schedule
from galore.trainer.record.heldout import HeldOut
from galore.trainer.record.history import History
from galore.trainer.record.metrics import Console, End, Metrics, read_rows
from galore.trainer.record.rundir import RunDir
from galore.trainer.record.shown.report import is_reported, write_report
from galore.trainer.record.shown.sections import spent
from galore.trainer.record.snapshots import Snapshots
from galore.trainer.record.trackers.sink import make_sink
from galore.trainer.recorder import Meter, Recorder
from galore.trainer.saving import require_disk, require_places
from galore.trainer.time.profiler import require_profiled
from galore.trainer.trained.runmodel import save_model_files


def run_training(
    loaded: LoadedRecipe,
    output_dir: Path,
    resume: bool,
    console: Console,
    progress: Progress = silent,
    callbacks: Callbacks | None = None,
    group: Group | None = None,
) -> Path | None:
    """Carry out a recipe in `output_dir`; returns the report's path, None where the console was told why there is none.

    With `resume` a run that is there goes on, and one that is finished and whole stays as it is, to the byte. In a
    `group` this is rank 0, and the others `follow`.

    Raises:
        UserError: bad input (exit code 2); RunFailed (1); Interrupted (75) once the state is saved.
    """
    with telling(group):
        refuse_missing_extras(loaded.recipe)
        directory = RunDir.create(output_dir, resume)
    if why := no_plots():
        console.message(why)
    if resume and directory.fresh:
        console.message(f"{directory.root} holds no run yet: starting one")
    with ExitStack() as held:
        with telling(group):
            held.enter_context(directory.locked())
            loaded = loaded if directory.fresh else going_on(loaded, directory)
            done = not directory.fresh and _is_done(directory, loaded.recipe)
        if done:
            console.message(f"{directory.root} is finished: nothing is left to do, and nothing was changed")
            if group is not None:
                group.from_first(None)
            return directory.report
        forget_peak()
        baseline = current_and_peak("cpu").current
        with telling(group):
            run = build(loaded, directory, console, progress, group)
        try:
            with telling(group):
                require_places(directory)
                require_disk(run)
                require_sample(run)
                require_held_out(run)
                require_profiled(run.recipe.log, run.total_steps)
                snapshots = Snapshots.of(run.recipe.train, run.model, directory.snapshots)
                # before all else: it is what makes the directory a run to resume
                directory.replace(directory.recipe, loaded.text)
                try:
                    recorder = _recorder(run, console, baseline, callbacks, snapshots)
                except UserError:
                    directory.take_back()
                    raise
            if group is not None:
                lead(run, group)
            return _carry_out(run, recorder)
        finally:
            run.optimizer.release()  # its hooks and the model hold each other, where no garbage collector sees it


def _is_done(directory: RunDir, recipe: Recipe) -> bool:
    """Whether the run came to its end, and all it left is still there. What is not is mended by carrying it out again.

    Raises:
        UserError: the run that is there computes something else than `recipe`. RunFailed: a checkpoint cannot be read.
    """
    known = directory.read_facts()
    if "finished" not in known:
        return False
    refuse_other_mathematics(directory, recipe)
    last, skipped = newest_verified(directory.checkpoints)
    saved = [step for step, _ in step_directories(directory.checkpoints)]
    if last is None or skipped or last.step != _ended_at(directory, known, recipe):
        return False
    if trained_schedule(directory, last.state, recipe) != recipe:
        return False
    if len(set(saved)) < len(saved) or len(saved) > recipe.train.save_total_limit + recipe.train.save_best:
        return False
    if any(not_finite(last.load(group).items()) for group in last.groups):  # earlier versions saved such
        return False
    try:
        require_same_recipe(last.state, recipe_of_run(directory.recipe), directory.root)
        require_same_files(last.state, directory.root)
    except UserError:
        return False
    return is_reported(directory, str(known["finished"]))


def _ended_at(directory: RunDir, known: dict[str, Any], recipe: Recipe) -> Any:
    """The last step of a finished run: where it was stopped early, if `recipe` has no more patience, or the planned."""
    patience = recipe.train.early_stopping_patience
    if "stopped_early" not in known or patience is None:
        return known.get("total_steps")
    worse = HeldOut.of(read_rows(directory.metrics)).since_best
    return known["stopped_early" if worse >= patience else "total_steps"]


def _carry_out(run: Run, recorder: Recorder) -> Path | None:
    report = None
    end: End = "finished"
    try:
        _begin(run, recorder)
        with StopOnSignal(run.console.notice) as stop:
            recorder.callbacks.stop_by(stop.ask)
            result = train(run, recorder, stop)
        _end(run, recorder, result)
        if known := notices(run.data.summary):
            more = f"; {len(known) - 1} more at the top" if len(known) > 1 else ""
            run.console.message(f"data:   {known[0]}{more}")
    except BaseException as error:
        end = "interrupted" if isinstance(error, (Interrupted, KeyboardInterrupt)) else "failed"
        _note_end(run.directory, error, end)
        raise
    finally:
        with suppress(OSError, UserError):
            recorder.tell(max(run.first_step, recorder.last), "on_end", run.directory.read_facts())
        recorder.metrics.close(end)
        run.console.close()
        report = _report(run)
    return report


def _report(run: Run) -> Path | None:
    """Write the report; a failure here must not hide how the run ended."""
    if run.directory.is_lost:  # the error that ends the run says so
        return None
    try:
        report = write_report(run.directory)
        if energy := spent(History.read(run.directory)):
            run.console.message(f"energy: {energy}")
        return report
    except UserError as error:
        run.console.message(str(error))
    except Exception as error:
        run.console.message(
            f"the report was not written: {described(error)}\n  → {run.directory.go_on()} writes it anew"
        )
    return None


def _recorder(
    run: Run, console: Console, baseline: int, callbacks: Callbacks | None, snapshots: Snapshots | None
) -> Recorder:
    dtype = next(run.model.parameters()).dtype
    ranks = 1 if run.group is None else run.group.size
    meter = Meter.of(run.model, run.device, dtype, ranks)
    resume_step = None if run.directory.fresh else run.first_step
    rows = run.data.num_sequences
    epoch = rows / run.recipe.train.global_batch_size if rows is not None else None
    sink = make_sink(run.recipe, run.directory, console.message, step=run.first_step, steps_per_epoch=epoch)
    run.directory.require_own()
    metrics = Metrics.open(run.directory.metrics, resume_step, warn=console.message, sink=sink)
    on_gpu = run.device.type == "cuda"
    if on_gpu and (why := missing("pynvml")):
        console.message(f"no energy, power and temperature: {why}")
    power = PowerMeter.of(run.device)
    recorder = Recorder(metrics, console, meter, run.device, 0 if on_gpu else baseline, callbacks, power)
    if snapshots is not None and run.writes:
        snapshots.forget_after(run.first_step)
        recorder.callbacks.add(snapshots)
    if run.checkpoint is not None:
        recorder.go_on_from(run.checkpoint.state)
    return recorder


def _begin(run: Run, recorder: Recorder) -> None:
    known: dict[str, Any] = {} if run.directory.fresh else run.directory.read_facts()
    if not known:
        known = facts(run, run.recipe.log.run_name or run.directory.root.resolve().name)
        known |= run.data.baseline() if run.data.has_validation else {}
    planned = known["total_steps"] if isinstance(known.get("total_steps"), int) else run.total_steps
    known["total_steps"] = run.total_steps
    if not run.directory.fresh:
        known["resumes"] = [*known.get("resumes", []), {"step": run.first_step, "time": now()}]
    goes_on = run.first_step < run.total_steps
    for stale in ("ended", "pruned", "stopped_early", *(["finished", "final"] if goes_on else [])):
        known.pop(stale, None)
    peak = recorder.meter.peak
    known["peak"] = {"flops_per_second": peak.flops_per_second, "basis": peak.basis}
    known["peak"] |= {"of": peak.of} if peak.of else {}
    expected = forecast(run)
    if expected is not None:
        known["expected_memory"] = expected.as_json()
    trained = files_of(run.checkpoint.state) if run.checkpoint is not None else {}
    files = save_model_files(run.model, run.data.tokenizer, run.directory, trained, run.console.message)
    stages = [each.positions for each in run.lengths]
    run.made_with |= identity(run.recipe, stored_config(run.model), files, run.router is not None, stages)
    run.directory.write_facts(known)
    run.directory.traceback.unlink(missing_ok=True)  # of what it went on from
    memory = f"{VERDICTS[expected.fits]}. {reason(expected)}" if expected is not None else ""
    shown = header(run, recorder.meter, memory)
    recorder.console.start(shown, run.total_steps)
    recorder.tell(run.first_step, "on_start", shown, run.total_steps)
    if "warning" in shown:
        recorder.console.notice(f"warning: {shown['warning'].partition(', first ')[0]}")
    if run.first_step:
        recorder.event(run.first_step, _resumed(run, planned) + _told_of_absent(run, recorder.metrics.absent))


def _told_of_absent(run: Run, rows: int) -> str:
    if not rows:
        return ""
    of = f"{rows:,} of the {run.first_step:,} steps before"
    return f"; {run.directory.metrics.name} has lost the rows of {of}, which report and plots then lack"


def _resumed(run: Run, planned: int) -> str:
    if run.first_step < run.total_steps:
        other = f"; {run.total_steps:,} steps are planned, and were {planned:,}" if planned != run.total_steps else ""
        return f"resumed after step {run.first_step}{other}"
    return f"finished already, after step {run.first_step} of {run.total_steps}: nothing is left to do"


def _note_end(directory: RunDir, error: BaseException, end: End) -> None:
    """Keep in run.json how the run ended before its last step; what hinders that must not hide the end itself."""
    why = error.what if isinstance(error, UserError) else described(error)
    ended = {"as": end, "why": shortened(masked(" ".join(why.split())), LONGEST_LINE), "time": now()}
    with suppress(OSError, UserError):
        if known := directory.read_facts():
            directory.write_facts(known | {"ended": ended})


def _end(run: Run, recorder: Recorder, result: Result | None) -> None:
    known, row = run.directory.read_facts(), recorder.metrics.evaluated
    last = run.stopped_early or run.total_steps
    final: dict[str, Any] = {**known.get("final", {}), "step": last}  # a finished run may be resumed, too
    if result is not None:
        final = _renewed(final, result.final())
    elif row.get("step") == last:  # killed before it was told here
        final = _renewed(final, final_of(row))
    if run.stopped_early is not None:
        known["stopped_early"] = run.stopped_early
    if run.data.num_sequences is None:  # what a stream holds is known as far as it was read
        known["data"] = run.data.summary
    run.directory.write_facts(known | {"finished": now(), "final": final})


def _renewed(final: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """`final` with other `values`; that one of before was no number is forgotten with it."""
    return {name: value for name, value in final.items() if name.removesuffix("_is") not in values} | dict(values)
