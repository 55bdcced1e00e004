"""The files of a sweep: what is missing is named with its reason, a plot only where there is one."""

from __future__ import annotations

import json
from pathlib import Path

from galore.trainer.recipe.load import load_recipe
from galore.trainer.sweep.options import Trial
from galore.trainer.sweep.outcome import Outcome, Sweep
from galore.trainer.sweep.table import missing, write


def _no_matplotlib() -> bytes:
    raise ImportError("matplotlib")


def test_what_a_table_does_not_have_is_told() -> None:
    trial = Trial("lora", "lora", "lora", load_recipe("demo"))
    other = Outcome(trial, "done", 9, 0, 0, 1.0, (), ((9, 3.21),), differs=("train.max_steps is 30, not 20",))
    undone, apart = missing(Sweep([Outcome(trial, "failed: nan", 0, 0, 0, 0.0)], [other], {"old": "no recipe"}))
    assert undone.rstrip().endswith("- lora: failed: nan\n- old: no recipe")
    assert apart.rstrip().endswith("- lora: done, held-out loss 3.2100; train.max_steps is 30, not 20")
    assert missing(Sweep([], [], {})) == []


def test_a_plot_is_written_where_there_is_one(tmp_path: Path) -> None:
    write(tmp_path, "both", "# table\n", {"runs": []}, lambda: b"png")
    assert (tmp_path / "both.png").read_bytes() == b"png"
    assert json.loads((tmp_path / "both.json").read_text()) == {"runs": []}
    for number, plot in enumerate((lambda: None, _no_matplotlib)):
        write(tmp_path, f"text{number}", "# table\n", [], plot)
    assert sorted(path.name for path in tmp_path.glob("text*")) == ["text0.json", "text0.md", "text1.json", "text1.md"]
