"""How a run ends that cannot go on: what is whole is saved, and one message says where it is."""

from __future__ import annotations

import traceback
from contextlib import suppress
from types import TracebackType
from typing import Self

from galore.trainer.build import Run
from galore.trainer.common.errors import Ended, Interrupted, UserError, described
from galore.trainer.common.format import counted
from galore.trainer.common.printable import masked
from galore.trainer.recorder import Recorder
from galore.trainer.saving import Standing, newest, save
from galore.trainer.shortage import Shortage, gave_out, is_out_of_memory, make_room


class Rescue:
    """A context that an exception of any kind leaves only once the last `stand` is saved.

    Raises:
        Ended: on leaving, in place of the exception; it says what broke off and what there is to go on from.
    """

    def __init__(self, run: Run, recorder: Recorder) -> None:
        self._run, self._recorder = run, recorder
        self.at = Standing.of(run, run.first_step)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception) and not isinstance(error, (Ended, Interrupted)):
            raise broken_off(self._run, self._recorder, self.at, error) from error

    def stand(self, step: int) -> None:
        """`step` steps are done, and nothing of the next one is."""
        self.at = Standing.of(self._run, step)


def broken_off(run: Run, recorder: Recorder, at: Standing, error: Exception) -> Ended:
    """What ends a run that `error` came into between two steps, or in a step before it moved a weight."""
    reason = described(error)
    trace = "".join(traceback.format_exception(error))
    traceback.clear_frames(error.__traceback__)  # they hold the tensors of what broke off
    with suppress(Exception):  # it may be the device that broke
        make_room(run)
    with suppress(Exception):  # or the record
        recorder.event(at.step, f"broken off after step {at.step}: {reason}")
    saved = _saved(run, recorder, at)
    return Ended(
        f"the run broke off after step {at.step}: {reason}\n  {saved}",
        where=str(run.directory.root),
        fix="; ".join(part for part in (_remedy(run, error, trace), f"go on with {run.directory.go_on()}") if part),
    )


def ran_out(run: Run, recorder: Recorder, at: Standing, shortage: Shortage) -> Ended:
    """What ends a run whose memory is at its end: what is whole is saved, and it says what to change."""
    make_room(run)
    recorder.event(at.step, f"memory ran out in step {at.step + 1}: {shortage}")
    return gave_out(run, at.step, shortage, _saved(run, recorder, at))


def gave_up(run: Run, recorder: Recorder, step: int) -> Ended:
    """What ends a run of which too many steps in a row were skipped."""
    return Ended(
        f"{counted(recorder.skipped_in_a_row, 'step')} in a row had gradients that are not finite",
        where=str(run.directory.root),
        fix=f"lower optim.learning_rate or set optim.max_grad_norm and start anew; {newest(run, step)}",
    )


def _saved(run: Run, recorder: Recorder, at: Standing) -> str:
    """Save what is whole, and say what there is."""
    # the clock goes on before what follows an update is through, such as copies to the host and new adapters
    if run.optimizer.torn or run.optimizer.clock != at.clock:
        return f"some weights had taken the step already: {newest(run, at.step)}"
    if at.step == run.first_step:
        return "no step was done since the start: nothing is lost"
    if not run.writes:
        return newest(run, at.step)
    if run.optimizer.sharded:  # the others hold parts of it, and may be gone
        return f"the steps since the last save are lost, since no process has them whole: {newest(run, at.step)}"
    try:
        save(run, recorder, at, must=True)
    except Exception as error:
        return f"the steps since the last save are lost ({described(error)}): {newest(run, at.step)}"
    return f"the {at.step} steps before it are saved"


def _remedy(run: Run, error: Exception, trace: str) -> str:
    """What to do first; of an error that no user can be blamed for, the traceback is kept beside the run."""
    if isinstance(error, UserError):
        return error.fix
    if isinstance(error, OSError):
        return ""
    if isinstance(error, MemoryError) or is_out_of_memory(error):  # in a step it is a shortage, told apart from this
        counts = run.recipe.scored_together_counts
        return "start anew with a lower eval.micro_batch_size" if counts else "lower eval.micro_batch_size"
    if not run.writes:
        return ""
    with suppress(OSError, UserError):  # the latter where the directory is another run's by now
        run.directory.replace(run.directory.traceback, masked(trace))
        return f"{run.directory.traceback} says where, for a report if it is galore's fault"
    return ""
