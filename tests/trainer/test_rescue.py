"""What ends a run that cannot go on: what is whole is saved, one message says so, and nothing breaks the rescue itself."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from galore.trainer import rescue
from galore.trainer.common.errors import Ended, Interrupted, UserError
from galore.trainer.recipe.load import load_recipe
from galore.trainer.record.rundir import RunDir
from galore.trainer.rescue import Rescue, broken_off, gave_up
from galore.trainer.saving import Standing


class Record:
    """A recorder that keeps events."""

    skipped_in_a_row = 9

    def __init__(self) -> None:
        self.events: list[tuple[int, str]] = []

    def event(self, step: int, message: str) -> None:
        self.events.append((step, message))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    saved: list[int] = []
    monkeypatch.setattr(rescue, "save", lambda run, recorder, at, must: saved.append(at.step))
    optimizer = SimpleNamespace(torn=False, clock=5, sharded=False, zero_grad=lambda: None)
    directory = RunDir.create(tmp_path / "run", resume=False)
    device, data = SimpleNamespace(type="cpu"), SimpleNamespace(position=dict)
    return SimpleNamespace(
        optimizer=optimizer,
        directory=directory,
        device=device,
        data=data,
        first_step=2,
        saved=saved,
        writes=True,
        recipe=load_recipe("demo").recipe,
    )


def at(step: int) -> Standing:
    return Standing(step, {}, {}, clock=step)


@pytest.mark.parametrize(
    ("step", "torn", "clock", "told", "saved"),
    [
        (5, False, 5, "the 5 steps before it are saved", [5]),
        (2, False, 2, "no step was done since the start: nothing is lost", []),
        (5, True, 5, "some weights had taken the step already: no checkpoint was saved", []),
        (5, False, 6, "some weights had taken the step already: no checkpoint was saved", []),
    ],
)
def test_what_is_whole_is_saved(run: Any, step: int, torn: bool, clock: int, told: str, saved: list[int]) -> None:
    run.optimizer.torn, run.optimizer.clock = torn, clock
    record: Any = Record()
    ended = broken_off(run, record, at(step), OSError(28, "disk full"))
    assert told in ended.what
    assert f"broke off after step {step}: OSError: [Errno 28] disk full" in ended.what
    assert ended.where == str(run.directory.root)
    assert ended.fix.startswith("go on with galore train ")
    assert run.saved == saved
    assert len(record.events) == 1


def test_neither_device_nor_record_nor_disk_hide_the_error(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("broken too")

    monkeypatch.setattr(rescue, "save", refuse)
    run.optimizer.zero_grad = refuse
    ended = broken_off(run, SimpleNamespace(event=refuse), at(5), ValueError("first"))  # type: ignore[arg-type]
    assert "ValueError: first" in ended.what
    assert "the steps since the last save are lost (RuntimeError: broken too)" in ended.what


def test_of_what_lies_in_parts_nothing_is_saved_by_one_alone(run: Any) -> None:
    run.optimizer.sharded = True
    ended = broken_off(run, SimpleNamespace(event=lambda *_: None), at(5), ValueError("first"))  # type: ignore[arg-type]
    assert "no process has them whole" in ended.what
    assert not run.saved


@pytest.mark.parametrize(
    ("error", "fix"),
    [
        (UserError("bad row", fix="mend the row"), "mend the row; go on with"),
        (MemoryError(), "lower eval.micro_batch_size; go on with"),
        (RuntimeError("DefaultCPUAllocator: not enough memory"), "lower eval.micro_batch_size; go on with"),
    ],
)
def test_what_to_do_comes_first(run: Any, error: Exception, fix: str) -> None:
    assert broken_off(run, Record(), at(5), error).fix.startswith(fix)  # type: ignore[arg-type]
    assert not run.directory.traceback.exists()


def test_fewer_rows_are_scored_together_in_a_new_run_where_they_count(run: Any) -> None:
    run.recipe = load_recipe("demo", ["eval.mode=paper"]).recipe
    assert broken_off(run, Record(), at(5), MemoryError()).fix.startswith("start anew with a lower eval.micro_batch")  # type: ignore[arg-type]


def test_of_what_nobody_can_mend_the_traceback_is_kept(run: Any) -> None:
    with pytest.raises(Ended) as caught, Rescue(run, Record()):  # type: ignore[arg-type]
        raise KeyError("unknown")
    assert isinstance(caught.value.__cause__, KeyError)
    assert str(run.directory.traceback) in caught.value.fix
    assert "test_rescue.py" in run.directory.traceback.read_text()


def test_who_writes_nothing_leaves_no_traceback(run: Any) -> None:
    run.writes = False
    with pytest.raises(Ended), Rescue(run, Record()):  # type: ignore[arg-type]
        raise KeyError("unknown")
    assert not run.directory.traceback.exists()


@pytest.mark.parametrize("error", [Ended("over"), Interrupted("by a signal"), KeyboardInterrupt(), SystemExit(3)])
def test_an_end_of_its_own_passes(run: Any, error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, Rescue(run, Record()):  # type: ignore[arg-type]
        raise error
    assert caught.value is error
    assert run.saved == []


def test_the_last_stand_is_saved(run: Any) -> None:
    def steps() -> None:
        with Rescue(run, Record()) as rescued:  # type: ignore[arg-type]
            rescued.stand(3)
            rescued.stand(4)
            raise ValueError

    with pytest.raises(Ended, match="after step 4"):
        steps()
    assert run.saved == [4]


def test_too_many_skipped_steps_start_anew(run: Any) -> None:
    ended = gave_up(run, Record(), 9)  # type: ignore[arg-type]
    assert "9 steps in a row had gradients that are not finite" in ended.what
    assert "start anew; no checkpoint was saved" in ended.fix
