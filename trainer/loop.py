"""The training loop: step, record, save, evaluate, stop when asked to."""

from __future__ import annotations

import time
from dataclasses import replace

from galore.kernels.span import span
from galore.trainer.build import Run
from galore.trainer.common.errors import Interrupted, UserError, described
from galore.trainer.data.batch import Batch, Objective, Result
from galore.trainer.data.rows.skips import skipping
from galore.trainer.evaluate import score_held_out
from galore.trainer.machine.signals import StopOnSignal
from galore.trainer.models.adapters.relora import restart_adapters
from galore.trainer.models.changes.compiled import refusal, seconds_told
from galore.trainer.models.generate import sample
from galore.trainer.models.rope.stages import in_stage
from galore.trainer.parallel.entered import entered, is_sharded
from galore.trainer.recipe.schema.resume import micro_batch_counts
from galore.trainer.recorder import Recorder
from galore.trainer.rescue import Rescue, gave_up, ran_out
from galore.trainer.saving import Standing, best_step, is_saved, save
from galore.trainer.schedule import learning_rates, restarts_after
from galore.trainer.shortage import Shortage, is_out_of_memory
from galore.trainer.step import StepResult, train_step
from galore.trainer.time.profiler import StepProfiler


def train(run: Run, recorder: Recorder, stop: StopOnSignal) -> Result | None:
    """Carry `run` out to its last step, or until it is stopped early; returns the last evaluation, None without any.

    A step is saved before it is evaluated. No step is saved that follows on skipped ones: the next good one is.

    Raises:
        Interrupted: a signal came; the state was saved after the step it came in.
        Ended: too many steps in a row were not finite, memory ran out, the last checkpoint could not be saved, or
            anything else broke off; what was whole is saved.
    """
    settings, result, due = run.recipe.train, None, False
    watched = recorder.watching(run.model, run.optimizer)
    profiled_steps = run.recipe.log.profiled if run.writes else range(0)
    how = (profiled_steps, run.device, run.directory.keep_trace, recorder.event, run.console.message)
    with Rescue(run, recorder) as rescue, watched, StepProfiler(*how) as profiled:
        if _owes_evaluation(run, recorder):
            result = evaluate_run(run, recorder, run.first_step)
            keep_best(run, recorder, rescue.at)
        if stops_early(run, recorder, rescue.at):
            return result
        for step in range(run.first_step, run.total_steps):
            profiled.begin(step + 1)
            started, rates = time.perf_counter(), learning_rates(run.recipe.optim, step, run.total_steps)
            for group in run.optimizer.param_groups:
                group["lr"] = rates[group.get("name", "learning_rate")]
            with span("data"):
                batch = run.data.global_batch(step)
            outcome = attempt_step(run, batch, step + 1)
            if isinstance(outcome, Shortage):
                raise ran_out(run, recorder, rescue.at, outcome)
            done, last = step + 1, step + 1 == run.total_steps
            rescue.stand(done)
            recorder.step(done, batch, outcome, rates, time.perf_counter() - started)
            profiled.end(done)
            if settings.compile and step == run.first_step:
                recorder.event(done, seconds_told(run.model))
            if recorder.skipped_in_a_row > settings.max_skipped_steps:
                raise gave_up(run, recorder, done)
            due = due or _every(settings.save_steps, done)
            asked = stop.requested if run.group is None else run.group.first_of(stop.requested)
            if last or asked or (due and not recorder.skipped_in_a_row):
                save(run, recorder, rescue.at, must=last or asked is not None)
                due = False
            if asked and not last:
                raise Interrupted(f"by {asked.name} after step {done}; saved", fix=run.directory.go_on())
            if last or run.is_to_evaluate(done):
                result = evaluate_run(run, recorder, done)
                keep_best(run, recorder, rescue.at)
                if not last and stops_early(run, recorder, rescue.at):
                    break
    return result


def keep_best(run: Run, recorder: Recorder, at: Standing) -> None:
    """Save what was just evaluated, if the recipe asks for it, it is the best so far, and no save took it already."""
    is_best = best_step(run, recorder, at.step) == at.step
    if is_best and not recorder.skipped_in_a_row and not is_saved(run, at.step):
        save(run, recorder, at, must=False)


def stops_early(run: Run, recorder: Recorder, at: Standing) -> bool:
    """Whether too many evaluations brought no new lowest loss; the run then ends here, saved."""
    patience, held_out = run.recipe.train.early_stopping_patience, recorder.metrics.held_out
    if patience is None or held_out.since_best < patience or at.step == run.total_steps:
        return False
    if not is_saved(run, at.step):
        save(run, recorder, at, must=True)
    run.stopped_early = at.step
    lowest = f"the lowest held-out loss was that after step {held_out.best}"
    recorder.event(at.step, f"stopped early after step {at.step}: {lowest}, {held_out.since_best} evaluations ago")
    return True


def attempt_step(run: Run, batch: Batch, number: int) -> StepResult | Shortage:
    """Optimizer step `number` (from 1), or why there was no room for it; what it had made is then given back."""
    try:
        return take_step(run, batch, number)
    except RuntimeError as error:  # in its traceback live the tensors of the step: it must be gone before saving
        if is_out_of_memory(error):
            return Shortage.of(run, error)
        if run.recipe.train.compile and (refused := refusal(error)) is not None:
            raise refused from error
        raise


def take_step(run: Run, batch: Batch, number: int) -> StepResult:
    """Optimizer step `number`; ReLoRA then merges its adapters and starts them anew, where that is due."""
    if run.group is not None:
        run.group.seed_step(run.recipe.train.seed, number)
    train, optim = run.recipe.train, run.recipe.optim
    spread = None if train.position_skips is None else train.position_skips.target_length
    with in_stage(run.lengths, run.model, batch, number - 1, spread) as (cut, pieces):
        objective = Objective(train.z_loss, run.extra, run.router)
        how = (train.micro_batch_size * pieces, optim.max_grad_norm, objective, run.group)
        rows = skipping(cut, train.position_skips, train.seed, number)
        split_counts = micro_batch_counts(run.recipe, run.router is not None)
        by_length = not split_counts and (run.extra is None or run.extra.counts_targets)
        result = train_step(run.model, run.optimizer, rows, *how, by_length)
    if not restarts_after(optim, number, run.total_steps):
        return result
    stochastic = optim.weight_rounding != "nearest"
    count = restart_adapters(run.model, run.optimizer, seed=train.seed, step=number, stochastic=stochastic)
    return replace(result, restarted=count)


def evaluate_run(run: Run, recorder: Recorder, step: int) -> Result | None:
    """Score what is held out and write a sample."""
    started = time.perf_counter()
    if not run.data.has_validation:
        return None
    result = score_held_out(run.model, run.data, run.recipe, run.group, run.extra)
    drawn = _sample(run, recorder, step)
    question = run.recipe.eval.sample_prompt if run.recipe.data.instruct and drawn is not None else None
    recorder.evaluation(step, result, started, drawn, question)
    return result


def _sample(run: Run, recorder: Recorder, step: int) -> str | None:
    """The sample that the recipe asks for; why there is none is an event.

    Of a sharded model only what all ranks refuse alike is one: where one fails alone, the others wait for it.
    """
    settings = run.recipe.eval
    prompt = settings.sample_prompt
    if prompt is None or not (run.writes or is_sharded(run.model)):
        return None
    try:
        return entered(
            run.model,
            lambda: sample(
                run.model,
                run.data.tokenizer,
                prompt,
                settings.sample_tokens,
                seed=run.recipe.train.seed,
                chat=run.recipe.data.instruct,
            ),
        )
    except Exception as error:
        if is_sharded(run.model) and not isinstance(error, UserError):
            raise
        recorder.event(step, f"no sample after step {step}: {described(error)}")
        return None


def _owes_evaluation(run: Run, recorder: Recorder) -> bool:
    """Whether an evaluation comes before the next step: of the start, or of a checkpoint it stopped right after."""
    step = run.first_step
    due = step == run.total_steps or run.is_to_evaluate(step) if step else run.recipe.evaluates_at_start
    return due and recorder.metrics.evaluated.get("step") != step


def _every(interval: int | None, step: int) -> bool:
    return interval is not None and step % interval == 0
