"""What a run is put together from."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from galore.trainer import build
from galore.trainer.checkpoint import checkpoint
from galore.trainer.common.errors import RunFailed, UserError
from galore.trainer.machine.device import THREADS_PER_CORE, choose_threads
from galore.trainer.optimizer import attach_optimizer
from galore.trainer.recipe.load import LoadedRecipe
from galore.trainer.record.rundir import RunDir


def test_threads_are_chosen_within_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = list[int]()
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    choose_threads(None)
    choose_threads(2 * THREADS_PER_CORE)
    assert chosen == [32]
    with pytest.raises(UserError, match=r"train.num_threads: is 1000, on 2 cores\n  → lower it to 32"):
        choose_threads(1000)
    assert chosen == [32]


def test_a_damaged_checkpoint_is_not_kept_for_its_held_out_loss(tmp_path: Path) -> None:
    directory, recipe, resumed = RunDir(tmp_path), SimpleNamespace(train=SimpleNamespace()), SimpleNamespace(step=3)
    for step in (1, 2, 3):
        checkpoint.save(directory.checkpoints, step, {"model": {"w": torch.ones(2)}}, {}, keep=9)
    losses = {1: 1.0, 2: 2.0, 3: 3.0, 4: 0.5}
    rows = [json.dumps({"kind": "eval", "step": step, "loss_nats": loss}) for step, loss in losses.items()]
    directory.metrics.write_text("\n".join([*rows, ""]))
    for keeps, damaged, expected in ((True, None, 1), (True, 1, 2), (False, None, None)):
        recipe.train.save_best = keeps
        if damaged is not None:
            (directory.checkpoints / f"step-{damaged:08d}" / "model.safetensors").write_bytes(b"no")
        asked: Any = (directory, resumed, recipe)
        assert build._best(*asked) == expected


NARROW = ("model.hidden_size=32", "model.intermediate_size=48", "optim.rank=8")
WIDE = ("model.hidden_size=64", "model.intermediate_size=96", "optim.rank=8")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (("optim.method=full", "optim.inner=normuon", "optim.state_dtype=4bit", *WIDE), "of 14 matrices"),
        (("optim.inner=normuon", "optim.residual=joint-4bit", *WIDE), "of 14 matrices"),
        (
            ("optim.inner=normuon", "optim.residual=joint-4bit", *WIDE, "model.intermediate_size=33"),
            "of 8 matrices, of 6 that are small or odd in more bits",
        ),
        (
            ("optim.inner=normuon", "optim.residual=joint-4bit", *NARROW),
            "of 0 matrices, of 14 that are small or odd in more bits",
        ),
        (WIDE, None),
    ],
)
def test_what_stores_momenta_in_4_bits_is_told(
    tiny: Callable[..., LoadedRecipe], settings: tuple[str, ...], expected: str | None
) -> None:
    loaded = tiny("optim.method=galore", *settings)
    model, _ = build.build_model(loaded.recipe, 256, "meta", loaded.base_dir)
    optimizer = attach_optimizer(model, loaded.recipe, 1)
    for kind, path in (
        ("cpu", "torch, row blocks (Triton's kernels are for CUDA, not cpu)"),
        ("cuda", "triton (one pass)"),
    ):
        told = build._momenta(optimizer, torch.device(kind))
        assert told == ([] if expected is None else [f"4-bit momenta: {expected}; {path}"])


@pytest.mark.parametrize(
    ("met", "fix"),
    [
        (
            RunFailed("the disk is gone", where="model.safetensors", fix="see whether it answers"),
            "see whether it answers",
        ),
        (UserError("a tensor is missing"), "resume with the code that wrote it"),
        (ValueError("a state is missing"), "resume with the code that wrote it"),
    ],
)
def test_a_checkpoint_that_is_not_taken_says_why_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch, met: Exception, fix: str
) -> None:
    def refuse(*_: Any) -> None:
        raise met

    found: Any = SimpleNamespace(path=Path("step-00000001"))
    monkeypatch.setattr(build, "newest_verified", lambda *_: (found, []))
    monkeypatch.setattr(build, "restore", refuse)
    anything: Any = SimpleNamespace(checkpoints=Path())
    with pytest.raises(RunFailed, match=str(met.args[0])) as told:
        build._taken(anything, anything, anything, anything, None)
    assert told.value.fix == fix
    assert (told.value is met) is isinstance(met, RunFailed)
