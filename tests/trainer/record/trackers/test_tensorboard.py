"""TensorBoard's event files, read back by TensorBoard; a writer that stands in for it where it is not installed."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from galore.trainer.recipe.schema.recipe import Recipe
from galore.trainer.record.rundir import RunDir
from galore.trainer.record.trackers.sink import make_sink


def _run(folder: Path, steps: range, said: list[str]) -> None:
    known = {"data": {"source": "packaged"}, "train": {"max_steps": 9}, "log": {"report_to": "tensorboard"}}
    sink = make_sink(Recipe.model_validate(known), RunDir(folder), said.append, step=steps.start, steps_per_epoch=4)
    assert sink is not None
    for step in steps:
        sink.log({"kind": "train", "step": step + 1, "loss_nats": float(steps.start * 100 + step)})
    sink.log({"kind": "eval", "step": steps.stop, "loss_nats": 1.25, "mode": "token"})
    sink.close()


def test_the_real_package_and_a_resumption(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs the tensorboard extra")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    said = list[str]()
    _run(tmp_path, range(5), said)
    _run(tmp_path, range(3, 6), said)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    losses = [(each.step, each.value) for each in events.Scalars("train/loss")]
    assert losses == [(1, 0.0), (2, 1.0), (3, 2.0), (4, 303.0), (5, 304.0), (6, 305.0)]
    assert events.Scalars("eval/loss")[-1].value == 1.25
    assert events.Scalars("train/epoch")[-1].value == 1.5
    assert events.Tags()["tensors"] == ["recipe/text_summary"]
    assert said[0] == f"TensorBoard: `tensorboard --logdir {tmp_path}` shows the curves"


def test_a_run_killed_before_its_first_checkpoint_has_each_step_once(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs the tensorboard extra")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _run(tmp_path, range(2), [])
    _run(tmp_path, range(3), [])
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [each.step for each in events.Scalars("train/loss")] == [1, 2, 3]
    assert [each.step for each in events.Scalars("eval/loss")] == [3]


class _Writer:
    def __init__(self, folder: str, purge_step: int | None) -> None:
        Path(folder).mkdir(exist_ok=True)
        self.made, self.closed = (folder, purge_step), False
        self.scalars, self.texts = list[tuple[Any, ...]](), list[str]()
        WRITERS.append(self)

    def add_text(self, name: str, text: str, step: int) -> None:
        self.texts.append(text)

    def add_scalar(self, *scalar: Any) -> None:
        self.scalars.append(scalar)

    def close(self) -> None:
        self.closed = True


WRITERS: list[_Writer] = []


def test_at_its_boundary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = _Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorboard", ModuleType("tensorboard"))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    WRITERS.clear()
    _run(tmp_path, range(1), [])
    _run(tmp_path, range(3, 4), [])
    assert [each.made for each in WRITERS] == [(f"{tmp_path}/tensorboard", None), (f"{tmp_path}/tensorboard", 4)]
    assert ("train/loss", 0.0, 1) in WRITERS[0].scalars
    assert ("eval/loss", 1.25, 1) in WRITERS[0].scalars
    assert all(name != "eval/mode" for name, *_ in WRITERS[0].scalars)
    assert "| train.max_steps | 9 |" in WRITERS[0].texts[0]
    assert all(each.closed for each in WRITERS)
