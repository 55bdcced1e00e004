"""`galore train`: where a run goes, and what a dry run shows."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from galore.cli.verbs import train as verb
from galore.trainer.common.errors import Taken
from galore.trainer.common.lock import exclusive
from galore.trainer.record.rundir import RunDir


@pytest.mark.parametrize(
    ("arguments", "directory", "resume", "rank"),
    [
        (["demo"], Path("runs/demo"), False, 64),
        (["demo", "optim.rank=8", "--output-dir", "here"], Path("here"), False, 8),
        (["--resume", "sub/mine.yaml", "optim.rank=9"], Path("runs/mine"), True, 9),
        (["--resume", "run/recipe.yaml"], Path("run"), True, 64),
        (["run", "--resume"], Path("run"), True, 64),
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
    calls.replace("galore.cli.show.progress.console", make_console=console)
    calls.replace("galore.trainer.run", run_training=Path("report.md"))
    assert galore("train", *arguments).exit_code == 0
    (loaded, *rest), _ = calls.made[-1]
    assert rest[:3] == [directory, resume, console]
    assert said[0] == "report: report.md"
    assert f"galore generate {directory} --prompt 'In the beginning'" in said[1]
    assert loaded.recipe.optim.rank == rank
    assert calls.made[0][0] == (loaded.recipe.log,)


def runs_of(origin: str, *names: str) -> None:
    for name in names:
        folder = Path("runs") / name
        folder.mkdir(parents=True)
        (folder / "recipe.yaml").write_text(f"# Resolved from {origin}\nextends: demo")
        (folder / "run.json").write_text('{"finished": "yesterday"}')


def test_a_second_run_of_a_recipe_gets_a_number_and_says_so(galore: Any, calls: Any) -> None:
    calls.replace("galore.cli.show.progress.console", make_console=SimpleNamespace(message=lambda text: None))
    calls.replace("galore.trainer.run", run_training=None)
    runs_of("demo", "demo", "demo-2")
    shown = galore("train", "demo")
    assert calls.made[-1][0][1] == Path("runs/demo-3")
    assert "runs/demo holds a run already: this one goes to runs/demo-3" in shown.stdout
    galore("train", "runs/demo-2")
    assert calls.made[-1][0][1] == Path("runs/demo-2"), "which is then refused, as it holds a run"


def test_of_two_that_begin_at_once_the_second_takes_the_next_folder(
    galore: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first begins between the second one's choice of a folder and its own beginning there."""
    begun: list[Path] = []

    def carry_out(loaded: Any, root: Path, *_: Any) -> None:
        begun.append(root)
        if len(begun) == 1:
            runs_of("demo", "demo")
            raise Taken("already holds a run", where=str(root))

    monkeypatch.setattr(verb, "carry_out", carry_out)
    shown = galore("train", "demo")
    assert (shown.exit_code, begun) == (0, [Path("runs/demo"), Path("runs/demo-2")])
    assert shown.stdout.count("this one goes to runs/demo-2") == 1
    begun.clear()
    for arguments in (("train", "demo", "--output-dir", "runs/demo"), ("train", "demo", "--resume")):
        shutil.rmtree("runs")
        assert galore(*arguments).exit_code == 2
        assert begun == [Path("runs/demo")]
        begun.clear()


def test_a_folder_in_which_a_run_begins_is_not_chosen(galore: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[Path] = []
    monkeypatch.setattr(verb, "carry_out", lambda loaded, root, *_: begun.append(root))
    Path("runs/demo").mkdir(parents=True)
    with exclusive(RunDir(Path("runs/demo")).lock):
        galore("train", "demo")
    assert begun == [Path("runs/demo-2")]


def test_resume_goes_on_with_the_only_run_of_a_recipe_and_asks_which_of_several(galore: Any, calls: Any) -> None:
    calls.replace("galore.cli.show.progress.console", make_console=SimpleNamespace(message=lambda text: None))
    calls.replace("galore.trainer.run", run_training=None)
    runs_of("mine/demo-7.yaml", "demo-7")
    galore("train", "demo", "--resume")
    assert calls.made[-1][0][1] == Path("runs/demo"), "that of another recipe, whose name ends so, is not its second"
    runs_of("demo", "demo-2")
    galore("train", "demo", "--resume")
    assert calls.made[-1][0][1] == Path("runs/demo-2")
    runs_of("demo", "demo")
    made = len(calls.made)
    refused = galore("train", "demo", "--resume")
    assert refused.exit_code == 2
    assert (
        "several runs of demo: runs/demo, finished after step 0; runs/demo-2, finished after step 0" in refused.stderr
    )
    assert "galore train runs/demo-2 --resume" in refused.stderr
    assert len(calls.made) == made
    galore("train", "demo", "--resume", "--output-dir", "runs/demo")
    assert calls.made[-1][0][1] == Path("runs/demo")


@pytest.mark.parametrize("spelled", ["mine.yaml", "sub/../mine.yaml", "absolute"])
def test_runs_of_a_recipe_are_its_own_however_its_path_is_spelled(galore: Any, calls: Any, spelled: str) -> None:
    calls.replace("galore.trainer.run", run_training=None)
    Path("sub").mkdir()
    Path("mine.yaml").write_text("extends: demo")
    runs_of("mine.yaml", "mine")
    runs_of(str(Path("runs/mine-2/recipe.yaml").resolve()), "mine-2")  # it was once resumed by that path
    refused = galore("train", str(Path("mine.yaml").resolve()) if spelled == "absolute" else spelled, "--resume")
    assert (refused.exit_code, calls.made) == (2, [])
    assert "several runs of mine: runs/mine, finished after step 0; runs/mine-2, finished" in refused.stderr


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
        learning_rate=None,
    )
    head = SimpleNamespace(**{**vars(row), "name": "lm_head", "rank": None, "projector_bytes": 0})
    costs = SimpleNamespace(
        flops_per_token=7 * 10**9, checkpoint_bytes=2**30, vocabulary=2048, needed_flops_per_token=5 * 10**9
    )
    found = SimpleNamespace(parameters=[row, head], notes=["assumed [x]"], costs=costs)
    calls.replace("galore.trainer.parameters", dry_run=found)
    calls.replace("galore.trainer.fit.duration", few_blocks=None)
    shown = galore("train", "demo", "--dry-run", "optim.rank=64", "train.max_steps=100000", "--gpu", "rtx4090")
    assert shown.exit_code == 0
    assert "# Resolved from demo\n#   optim.rank=64" in shown.stdout
    lines = [" ".join(line.split()) for line in shown.stdout.splitlines()]
    assert "model.layers.*.mlp.up_proj 4 688 × 256 projected, right 64 705k 1.00 MiB 3.00 MiB 512 KiB" in lines
    assert "together 8 1.41M 2.00 MiB 6.00 MiB 512 KiB" in lines
    assert "Note: assumed [x]" in lines
    assert lines[-10:] == [
        "run 100,000 steps × 2,048 tokens = 205M tokens, padding included",
        "epochs not known: no corpus is read here",
        "FLOPs 1.43e18, recomputation included",
        "time 4.82–8.04 hours on an NVIDIA GeForce RTX 4090, if it reaches 30–50 % of its 165 TFLOP/s (assumed)",
        "energy 2.17–3.62 kWh for the card alone, at its 450 W (assumed)",
        "checkpoints 3 × 1.00 GiB = 3.00 GiB, the one being written included",
        "saved every 250 steps (train.save_steps): a power cut costs 43.4–72.3 seconds at most",
        "token cache 1.86 GiB per billion tokens of the corpus",
        "memory of a step, and whether it fits, is told by:",
        "galore profile-memory demo optim.rank=64 train.max_steps=100000 --gpu rtx4090",
    ]
    assert not Path("runs").exists()
    refused = galore("train", "demo", "--gpu", "rtx4090")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "--gpu: chooses the card that a dry run plans for\n  → add --dry-run" in refused.stderr
    refused = galore("train", "demo", "--dry-run", "--gpu", "rtx4091")
    assert (refused.exit_code, refused.stdout) == (2, "")


def test_a_dry_run_says_what_it_cannot_know(galore: Any, calls: Any) -> None:
    """Epochs leave the tokens open; a card without a published peak, a model without a count, the time."""
    costs = SimpleNamespace(
        flops_per_token=7 * 10**9, checkpoint_bytes=2**30, vocabulary=2048, needed_flops_per_token=None
    )
    found = SimpleNamespace(parameters=[], notes=[], costs=costs)
    calls.replace("galore.trainer.parameters", dry_run=found)
    calls.replace("galore.trainer.fit.duration", few_blocks=None)
    epochs = ("train.max_steps=null", "train.num_train_epochs=2", "train.save_steps=null")
    shown = galore("train", "demo", "--dry-run", *epochs, "--gpu", "h200").stdout
    assert "2 epochs, 2,048 tokens a step; tokens and steps are not known here: `galore prepare` counts them" in shown
    assert "a billion tokens take 3.93–6.55 hours on an NVIDIA H200" in shown
    assert "1 × 1.00 GiB = 1.00 GiB, at the end" in shown
    assert "time         not estimated" in galore("train", "demo", "--dry-run", "--gpu", "24GB").stdout
    costs.flops_per_token = None
    shown = galore("train", "demo", "--dry-run", "--gpu", "rtx4090").stdout
    assert "FLOPs        not known" in shown
    assert "\ntime  " not in shown


def test_the_first_process_alone_chooses_the_folder_and_shows_a_dry_run(
    galore: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    roots: list[Path] = []
    monkeypatch.setattr("galore.cli.verbs.train.carry_out", lambda loaded, root, *_: roots.append(root))
    Path("runs/demo").mkdir(parents=True)
    Path("runs/demo/recipe.yaml").write_text("")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        shown = galore("train", "demo")
        assert (shown.exit_code, "runs/demo-2" in shown.stdout) == (0, rank == "0")
    assert roots == [Path("runs/demo-2"), Path()]
    assert galore("train", "demo", "--dry-run").stdout == ""
