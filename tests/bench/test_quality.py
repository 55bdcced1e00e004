"""The bench of held-out losses: what is at an edge of its grid, and short forms of settings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import quality


def swept(folder: Path, *runs: tuple[str, float, float, float, int]) -> Path:
    names = ("method", "lr", "scale", "loss_nats", "steps")
    out = folder / "out.jsonl"
    out.write_text("".join(json.dumps(dict(zip(names, run, strict=True))) + "\n" for run in runs))
    return out


def test_edges_are_those_of_the_sweep_alone_and_of_its_mean_over_seeds(tmp_path: Path) -> None:
    few, whole = quality.SWEEP_STEPS, quality.STEPS
    inside = [("full", 0.02, factor, loss, few) for factor, loss in ((0.01, 5.0), (0.02, 4.0), (0.04, 4.5))]
    seeds = [("fira", 0.02, factor, loss, few) for factor, loss in ((0.01, 5.0), (0.02, 4.9), (0.01, 4.0))]
    rates = [("lora", rate, 1.0, 5 - rate, few) for rate in (0.001, 0.003)]
    final = [("muon", 0.02, factor, 5 - factor, whole) for factor in (0.01, 0.02)]
    out = swept(tmp_path, *inside, *seeds, *rates, *final)
    assert quality.edges(out) == [
        "fira: factor 0.01 is the lowest of 0.01, 0.02",
        "lora: learning rate 0.003 is the highest of 0.001, 0.003",
    ]


@pytest.mark.parametrize(
    ("short", "setting"),
    [
        ("head=0.01", "optim.head_learning_rate=0.01"),
        ("embedding=0.01", "optim.embedding_learning_rate=0.01"),
        ("optim.rank=8", "optim.rank=8"),
    ],
)
def test_short_forms(short: str, setting: str) -> None:
    assert quality._in_full(short) == setting


def test_a_folder_holds_one_text(tmp_path: Path) -> None:
    (tmp_path / "novels.train.jsonl.gz").touch()
    assert quality._one(tmp_path, "train").name == "novels.train.jsonl.gz"
    (tmp_path / "code.train.jsonl.gz").touch()
    with pytest.raises(SystemExit, match="2 files"):
        quality._one(tmp_path, "train")
