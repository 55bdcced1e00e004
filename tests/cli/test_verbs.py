"""The verbs hand over what they were given, and print what they get back. What they call is tested elsewhere."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from galore.trainer.checkpoint.checkpoint import Skipped
from galore.trainer.common.errors import UserError
from galore.trainer.data.score import EvalResult

SKIPPED = (Skipped(path=Path("step-00000009"), reason="model.safetensors differs"),)


class Calls:
    """Stands in for the trainer's modules and keeps what they were called with."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self._monkeypatch = monkeypatch

    def replace(self, module: str, answer: Any = None, **more: Any) -> None:
        """Make the functions named in `more` record their call and return the value given for them."""
        functions = {name: self._recorder(value) for name, value in more.items()}
        self._monkeypatch.setitem(sys.modules, module, SimpleNamespace(**functions))

    def _recorder(self, answer: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            self.made.append((arguments, named))
            return answer

        return call


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    return Calls(monkeypatch)


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
def test_train(galore: Any, calls: Calls, arguments: list[str], directory: Path, resume: bool, rank: int) -> None:
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
    assert said[0] == "report: report.md"
    assert f"galore generate {directory} --prompt 'In the beginning'" in said[1]
    assert loaded.recipe.optim.rank == rank
    assert calls.made[0][0] == (loaded.recipe.log,)


def test_train_dry_run(galore: Any, calls: Calls) -> None:
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
    costs = SimpleNamespace(flops_per_token=7 * 10**9, checkpoint_bytes=2**30, vocabulary=2048)
    found = SimpleNamespace(parameters=[row, head], notes=["assumed [x]"], costs=costs)
    calls.replace("galore.trainer.parameters", dry_run=found)
    shown = galore("train", "demo", "--dry-run", "optim.rank=64", "train.max_steps=100000", "--gpu", "rtx4090")
    assert shown.exit_code == 0
    assert "# Resolved from demo\n#   optim.rank=64" in shown.stdout
    lines = [" ".join(line.split()) for line in shown.stdout.splitlines()]
    assert "model.layers.*.mlp.up_proj 4 688 × 256 projected, right 64 705k 1.00 MiB 3.00 MiB 512 KiB" in lines
    assert "together 8 1.41M 2.00 MiB 6.00 MiB 512 KiB" in lines
    assert "Note: assumed [x]" in lines
    assert lines[-7:] == [
        "run 100,000 steps × 2,048 tokens = 205M tokens, padding included",
        "epochs not known: no corpus is read here",
        "FLOPs 1.43e18, recomputation included",
        "time 4.82–8.04 hours on an NVIDIA GeForce RTX 4090, if it reaches 30–50 % of its 165 TFLOP/s (assumed)",
        "energy 2.17–3.62 kWh for the card alone, at its 450 W (assumed)",
        "checkpoints 3 × 1.00 GiB = 3.00 GiB, the one being written included",
        "token cache 1.86 GiB per billion tokens of the corpus",
    ]
    assert not Path("runs").exists()
    refused = galore("train", "demo", "--gpu", "rtx4090")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "--gpu: chooses the card that a dry run plans for\n  → add --dry-run" in refused.stderr
    refused = galore("train", "demo", "--dry-run", "--gpu", "rtx4091")
    assert (refused.exit_code, refused.stdout) == (2, "")


def test_a_dry_run_says_what_it_cannot_know(galore: Any, calls: Calls) -> None:
    """Epochs leave the tokens open; a card without a published peak, a model without a count, the time."""
    costs = SimpleNamespace(flops_per_token=7 * 10**9, checkpoint_bytes=2**30, vocabulary=2048)
    found = SimpleNamespace(parameters=[], notes=[], costs=costs)
    calls.replace("galore.trainer.parameters", dry_run=found)
    epochs = ("train.max_steps=null", "train.num_train_epochs=2", "train.save_steps=null")
    shown = galore("train", "demo", "--dry-run", *epochs, "--gpu", "h200").stdout
    assert "2 epochs, 2,048 tokens a step; tokens and steps are not known" in shown
    assert "a billion tokens take 3.93–6.55 hours on an NVIDIA H200" in shown
    assert "1 × 1.00 GiB = 1.00 GiB, at the end" in shown
    assert "time         not estimated" in galore("train", "demo", "--dry-run", "--gpu", "24GB").stdout
    costs.flops_per_token = None
    shown = galore("train", "demo", "--dry-run", "--gpu", "rtx4090").stdout
    assert "FLOPs        not known" in shown
    assert "\ntime  " not in shown


@pytest.fixture
def scored(calls: Calls) -> Calls:
    result = EvalResult(loss_nats=2.5, perplexity=12.1825, tokens=40_000, mode="token", batches=3)
    calls.replace("galore.trainer.build", choose_device="cpu")
    calls.replace(
        "galore.trainer.trained.evaluation",
        evaluate_stored=SimpleNamespace(result=result, origin="runs/a", step=7, skipped=SKIPPED, notes=["a note"]),
    )
    return calls


def test_eval(galore: Any, scored: Calls) -> None:
    shown = galore("eval", "runs/a", "--max-tokens", "99", "--mode", "paper")
    assert shown.stdout == "runs/a: loss 2.5000 nats, perplexity 12.18, 40,000 held-out tokens, eval.mode token\n"
    assert "skipped step-00000009: model.safetensors differs" in shown.stderr
    assert "a note" in shown.stderr
    assert scored.made[-1] == (("runs/a", None), {"device": "cpu", "mode": "paper", "max_tokens": 99})


def test_eval_json(galore: Any, scored: Calls) -> None:
    facts = json.loads(galore("eval", "m", "--recipe", "demo", "data.max_length=64", "--json").stdout)
    assert facts == {
        "model": "runs/a",
        "step": 7,
        "loss_nats": 2.5,
        "perplexity": 12.1825,
        "tokens": 40_000,
        "mode": "token",
    }
    assert scored.made[-1][0][1].recipe.data.max_length == 64


def test_eval_overrides_change_the_recipe_of_the_run(galore: Any, scored: Calls) -> None:
    Path("run").mkdir()
    Path("run/recipe.yaml").write_text("extends: demo")
    assert galore("eval", "run", "eval.max_tokens=5").exit_code == 0
    assert scored.made[-1][0][1].recipe.eval.max_tokens == 5
    refused = galore("eval", "model", "eval.max_tokens=5")
    assert refused.exit_code == 2
    assert "model is no run" in refused.stderr


def test_generate(galore: Any, calls: Calls) -> None:
    calls.replace("galore.trainer.machine.device", choose_device="cpu", choose_threads=None)
    calls.replace(
        "galore.trainer.trained.runmodel",
        load_run_model=SimpleNamespace(model="M", tokenizer="T", skipped=(), recipe=None),
    )
    calls.replace("galore.trainer.models.generate", sample="Once upon a time")
    shown = galore("generate", "runs/a", "--prompt", "Once", "--temperature", "0.5", "--seed", "3")
    assert shown.stdout == "Once upon a time\n"
    assert calls.made[1] == (("runs/a", "cpu"), {})
    settings = {"max_new_tokens": 60, "seed": 3, "temperature": 0.5, "top_p": 1.0, "top_k": 0, "chat": False}
    assert calls.made[2] == (("M", "T", "Once"), settings)


def test_generate_takes_the_threads_of_the_run(galore: Any, calls: Calls) -> None:
    recipe = SimpleNamespace(train=SimpleNamespace(num_threads=3), data=SimpleNamespace(instruct=True))
    stored = SimpleNamespace(model="M", tokenizer="T", skipped=(), recipe=recipe)
    calls.replace("galore.trainer.machine.device", choose_device="cpu", choose_threads=None)
    calls.replace("galore.trainer.trained.runmodel", load_run_model=stored)
    calls.replace("galore.trainer.models.generate", sample="Once upon a time")
    galore("generate", "runs/a", "--prompt", "Once")
    assert ((3,), {}) in calls.made


def test_export(galore: Any, calls: Calls) -> None:
    written = SimpleNamespace(
        folder="/x/out", origin="runs/a/step-7", step=7, bytes=2**20, loads="AutoModelForCausalLM", skipped=()
    )
    calls.replace("galore.trainer.trained.export", export=written)
    shown = galore("export", "runs/a", "out")
    assert shown.stdout.startswith("/x/out: 1.00 MiB, from runs/a/step-7\n")
    assert calls.made == [(("runs/a", Path("out")), {})]


def test_errors_below_reach_the_user(galore: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def export(*_: Any) -> None:
        raise UserError("is not empty", where="out")

    monkeypatch.setitem(sys.modules, "galore.trainer.trained.export", SimpleNamespace(export=export))
    refused = galore("export", "runs/a", "out")
    assert (refused.exit_code, refused.stderr) == (2, "error: out: is not empty\n")
