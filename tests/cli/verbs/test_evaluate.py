"""`galore eval`: which recipe is scored, and what is printed."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from galore.trainer.checkpoint.checkpoint import Skipped
from galore.trainer.data.score import EvalResult

SKIPPED = (Skipped(path=Path("step-00000009"), reason="model.safetensors differs"),)


@pytest.fixture
def scored(calls: Any) -> Any:
    result = EvalResult(
        loss_nats=2.5, perplexity=12.1825, tokens=40_000, mode="token", batches=3, nats=100_000.0, bytes=160_000
    )
    calls.replace("galore.trainer.build", choose_device="cpu")
    calls.replace(
        "galore.trainer.trained.evaluation",
        evaluate_stored=SimpleNamespace(result=result, origin="runs/a", step=7, skipped=SKIPPED, notes=["a note"]),
    )
    return calls


def test_eval(galore: Any, scored: Any) -> None:
    shown = galore("eval", "runs/a", "--max-tokens", "99", "--mode", "paper")
    told = "loss 2.5000 nats, perplexity 12.18, 0.9017 bits per byte, 40,000 held-out tokens, eval.mode token"
    assert shown.stdout == f"runs/a: {told}\n"
    assert "skipped step-00000009: model.safetensors differs" in shown.stderr
    assert "a note" in shown.stderr
    assert scored.made[-1] == (("runs/a", None), {"device": "cpu", "mode": "paper", "max_tokens": 99})


def test_eval_json(galore: Any, scored: Any) -> None:
    facts = json.loads(galore("eval", "m", "--recipe", "demo", "data.max_length=64", "--json").stdout)
    assert facts == {
        "model": "runs/a",
        "step": 7,
        "loss_nats": 2.5,
        "perplexity": 12.1825,
        "bits_per_byte": pytest.approx(0.90168, abs=1e-5),
        "tokens": 40_000,
        "mode": "token",
    }
    assert scored.made[-1][0][1].recipe.data.max_length == 64


def test_eval_overrides_change_the_recipe_of_the_run(galore: Any, scored: Any) -> None:
    Path("run").mkdir()
    Path("run/recipe.yaml").write_text("extends: demo")
    assert galore("eval", "run", "eval.max_tokens=5").exit_code == 0
    assert scored.made[-1][0][1].recipe.eval.max_tokens == 5
    refused = galore("eval", "model", "eval.max_tokens=5")
    assert refused.exit_code == 2
    assert "model is no run" in refused.stderr
