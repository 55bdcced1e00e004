"""`galore train`: where a run goes, and what a dry run shows."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest


@pytest.mark.parametrize(
    ("arguments", "directory", "resume", "rank"),
    [
        (["demo"], Path("runs/demo"), False, 64),
        (["demo", "optim.rank=8", "--output-dir", "here"], Path("here"), False, 8),
        (["--resume", "sub/mine.yaml", "optim.rank=9"], Path("runs/mine"), True, 9),
        (["--resume", "run/recipe.yaml"], Path("run"), True, 64),
        (["--resume", "sub/recipe.yaml"], Path("runs/recipe"), True, 64),
    ],
)
def test_train(galore: Any, calls: Any, arguments: list[str], directory: Path, resume: bool, rank: int) -> None:
    Path("sub").mkdir()
    Path("run").mkdir()
    for file in ("sub/mine.yaml", "sub/recipe.yaml", "run/recipe.yaml"):
        Path(file).write_text("extends: demo")
    Path("run/run.json").write_text("{}")
    said: list[str] = []
    console = SimpleNamespace(message=said.append)
    calls.replace("galore.cli.show.console", make_console=console)
    calls.replace("galore.trainer.run", run_training=Path("report.md"))
    assert galore("train", *arguments).exit_code == 0
    (loaded, *rest), _ = calls.made[-1]
    assert rest[:3] == [directory, resume, console]
    assert said == ["report: report.md"]
    assert loaded.recipe.optim.rank == rank
    assert calls.made[0][0] == (loaded.recipe.log,)


def test_train_dry_run(galore: Any, calls: Any) -> None:
    row = SimpleNamespace(
        name="model.layers.*.mlp.up_proj",
        tensors=4,
        shape=(688, 256),
        update="projected, right",
        rank=64,
        count=704_512,
        weight_bytes=2**20,
        state_bytes=3 * 2**20,
        projector_bytes=2**19,
    )
    head = SimpleNamespace(**{**vars(row), "name": "lm_head", "rank": None, "projector_bytes": 0})
    calls.replace("galore.trainer.parameters", dry_run=SimpleNamespace(parameters=[row, head], notes=["assumed [x]"]))
    shown = galore("train", "demo", "--dry-run", "optim.rank=64")
    assert shown.exit_code == 0
    assert "# Resolved from demo\n#   optim.rank=64" in shown.stdout
    lines = [" ".join(line.split()) for line in shown.stdout.splitlines()]
    assert "model.layers.*.mlp.up_proj 4 688 × 256 projected, right 64 705k 1.00 MiB 3.00 MiB 512 KiB" in lines
    assert "together 8 1.41M 2.00 MiB 6.00 MiB 512 KiB" in lines
    assert "Note: assumed [x]" in lines
    assert not Path("runs").exists()
