"""The training loop: step, record, evaluate, save, stop when asked to."""

from __future__ import annotations

import shlex
import time

from galore.trainer import checkpoint
from galore.trainer.build import Run
from galore.trainer.errors import Interrupted, RunFailed
from galore.trainer.generate import sample
from galore.trainer.record import Recorder
from galore.trainer.rotation import step_directories
from galore.trainer.schedule import learning_rate
from galore.trainer.scoring import Result, score_held_out
from galore.trainer.shortage import Shortage, attempt_step, gave_out, make_room
from galore.trainer.signals import StopOnSignal
from galore.trainer.state import capture


def train(run: Run, recorder: Recorder, stop: StopOnSignal) -> Result | None:
    """Carry `run` out to its last step; returns the last evaluation, None without held-out data.

    Raises:
        Interrupted: a signal came; the state was saved after the step it came in.
        RunFailed: too many steps in a row were not finite, memory ran out, or the last checkpoint could not be saved.
    """
    settings, result = run.recipe.train, None
    for step in range(run.first_step, run.total_steps):
        started, lr = time.perf_counter(), learning_rate(run.recipe.optim, step, run.total_steps)
        for group in run.optimizer.param_groups:
            group["lr"] = lr
        batch = run.data.global_batch(step)
        outcome = attempt_step(run, batch, step + 1)
        if isinstance(outcome, Shortage):
            raise _ran_out(run, recorder, step, outcome)
        done, last = step + 1, step + 1 == run.total_steps
        recorder.step(done, batch, outcome, lr, time.perf_counter() - started, run.model, run.optimizer)
        if recorder.skipped_in_a_row > settings.max_skipped_steps:
            raise _gave_up(run, recorder)
        if last or run.is_to_evaluate(done):
            result = evaluate_run(run, recorder, done)
        if last or stop.requested or _every(settings.save_steps, done):
            save(run, recorder, done, must=last or stop.requested is not None)
        if stop.requested and not last:
            raise Interrupted(f"by {stop.requested.name} after step {done}; saved", fix=_go_on(run))
    return result


def evaluate_run(run: Run, recorder: Recorder, step: int) -> Result | None:
    """Score what is held out and write a sample."""
    settings, started = run.recipe.eval, time.perf_counter()
    if not run.has_validation:
        return None
    result = score_held_out(run.model, run.data, run.recipe)
    text = None
    if settings.sample_prompt is not None:
        text = sample(
            run.model,
            run.data.tokenizer,
            settings.sample_prompt,
            settings.sample_tokens,
            seed=run.recipe.train.seed,
            chat=run.recipe.data.instruct,
        )
    recorder.evaluation(step, result, started, text)
    return result


def save(run: Run, recorder: Recorder, step: int, must: bool) -> None:
    """Write a checkpoint of `step` finished steps. One that fails is told and tried again later, unless it `must`."""
    run.directory.require_own()
    tensors, state = capture(run.model, run.optimizer)
    state |= recorder.counters() | run.made_with | {"position": run.data.position()}
    recorder.metrics.sync()
    try:
        checkpoint.save(run.directory.checkpoints, step, tensors, state, run.recipe.train.save_total_limit)
    except checkpoint.CheckpointFailed as error:
        if must:
            raise
        recorder.event(step, f"{error}; training goes on, the next save tries again")


def _every(interval: int | None, step: int) -> bool:
    return interval is not None and step % interval == 0


def _go_on(run: Run) -> str:
    folder = shlex.quote(str(run.directory.root))
    return f"galore train {folder}/recipe.yaml --output-dir {folder} --resume"


def _ran_out(run: Run, recorder: Recorder, step: int, shortage: Shortage) -> RunFailed:
    """Save what is whole, and say what to change."""
    make_room(run)
    recorder.event(step, f"memory ran out in step {step + 1}: {shortage}")
    if run.optimizer.torn:
        saved = f"some weights had taken the step already: {_newest(run)}"
    elif step == run.first_step:
        saved = "no step was done since the start: nothing is lost"
    else:
        save(run, recorder, step, must=True)
        saved = f"the {step} steps before it are saved"
    return gave_out(run, step, shortage, saved)


def _gave_up(run: Run, recorder: Recorder) -> RunFailed:
    return RunFailed(
        f"{recorder.skipped_in_a_row} steps in a row had gradients that are not finite",
        where=str(run.directory.root),
        fix="lower optim.learning_rate or set optim.max_grad_norm and start anew; " + _newest(run),
    )


def _newest(run: Run) -> str:
    """What there is to go on from."""
    saved = step_directories(run.directory.checkpoints)
    return f"{saved[0][1].name} is what there is" if saved else "no checkpoint was saved"
