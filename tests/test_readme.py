"""What the README shows works: its optimizer loop and its recipes; its commands are tried in tests/docs."""

import re
from pathlib import Path

import pytest
import torch
import typer
from torch import nn

from galore.cli.main import app
from galore.trainer.optim import target_modules
from galore.trainer.recipe.load import load_recipe
from galore.trainer.record.rundir import RunDir

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def block(language, containing):
    (found,) = [text for text in re.findall(rf"```{language}\n(.*?)```", README, re.S) if containing in text]
    return found


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.self_attn, self.mlp = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x):
        return self.mlp(torch.tanh(self.self_attn(x)))


def test_the_optimizer_example_runs_and_learns():
    torch.manual_seed(0)
    model, teacher = Tiny(), Tiny()
    data = [[torch.randn(8, 16) for _ in range(2)] for _ in range(60)]
    names = {"model": model, "batches": data, "loss": lambda m, x: (m(x) - teacher(x).detach()).square().mean()}
    before = names["loss"](model, data[0][0]).item()
    assert len(target_modules(model, ["self_attn", "mlp"])) == 2
    exec(block("python", "GaLoreAdamW"), names)
    assert names["loss"](model, data[0][0]).item() < 0.5 * before
    assert all(isinstance(tensor, torch.Tensor) for tensor in names["state"].values())


def test_the_recipe_example_is_valid(tmp_path):
    (tmp_path / "my.yaml").write_text(block("yaml", "extends: llama-60m"))
    (tmp_path / "corpus").mkdir()
    recipe = load_recipe(str(tmp_path / "my.yaml")).recipe
    assert recipe.train.accumulation == 32


def test_the_fine_tuning_example_is_valid(tmp_path):
    (tmp_path / "my.yaml").write_text(block("yaml", "extends: finetune-instruct"))
    recipe = load_recipe(str(tmp_path / "my.yaml")).recipe
    assert recipe.data.path == str(tmp_path / "my.jsonl")
    assert recipe.data.instruct


@pytest.mark.parametrize("verb", [*typer.main.get_command(app).commands])
def test_every_verb_is_shown(verb):
    assert f"galore {verb}" in README


def test_it_is_read_in_a_few_minutes():
    assert len(README.splitlines()) <= 200


def test_what_a_run_leaves_is_named(tmp_path):
    run = RunDir(tmp_path)
    names = {getattr(run, name).name for name in vars(RunDir) if isinstance(getattr(run, name, None), Path)}
    for page in (README, (ROOT / "docs/runs.md").read_text()):
        said = {name.rstrip("/") for name in re.findall(r"`([\w.]+/?)`", page)}
        assert names - {tmp_path.name, run.lock.name} <= said


RESULTS = ROOT / "bench/results"
FIGURES = {
    RESULTS / "2026-11-22-epyc-2core-optimizers.md": ("4.5192", "4.5200", "4.5206"),
    RESULTS / "2026-11-22-epyc-2core.md": ("1.43", "24 kills"),
    ROOT / "docs/memory.md": ("21.85", "23.51", "0.01 %"),
    ROOT / "docs/glue.md": ("6.78", "9.58", "951"),
}


@pytest.mark.parametrize("file", FIGURES, ids=lambda file: file.name)
def test_a_figure_stands_where_it_was_written_by_a_command(file):
    for figure in FIGURES[file]:
        assert figure in README
        assert figure in file.read_text()


def test_the_faults_are_those_of_the_table_that_make_prove_wrote():
    text = (RESULTS / "2026-11-26-epyc-2core-faults.md").read_text()
    table = text.split("## make prove")[1].split("What did not hold")[0]
    tried, held = (
        sum(map(int, column))
        for column in zip(*re.findall(r"\| ([\d]+) \| ([\d]+) \|", table.replace(",", "")), strict=True)
    )
    assert f"{held:,} of {tried:,} kills" in README
    assert f"the other {['no', 'one', 'two', 'three', 'four'][tried - held]}" in README


def test_the_faults_that_are_planted_are_at_least_so_many(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "bench")
    count = sum(len(rows) for _, rows in __import__("faults").FAULTS.values())
    for page in (README, (ROOT / "CONTRIBUTING.md").read_text()):
        (said,) = re.findall(r"(\d+) (?:small )?faults", page)
        assert int(said) <= count < int(said) + 50
