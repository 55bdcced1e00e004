"""`galore eval`: which recipe is scored, and what is printed."""

from __future__ import annotations

import json
import sys
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
    shown = galore("eval", "runs/a", "--max-tokens", "99", "--mode", "paper", "--checkpoint", "best")
    told = "loss 2.5000 nats, perplexity 12.18, 0.9017 bits per byte, 40,000 held-out tokens, eval.mode token"
    assert shown.stdout == f"runs/a: {told}\n"
    assert "skipped step-00000009: model.safetensors differs" in shown.stderr
    assert "a note" in shown.stderr
    assert scored.made[-1] == (
        ("runs/a", None),
        {"device": "cpu", "mode": "paper", "max_tokens": 99, "checkpoint": "best"},
    )


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


@pytest.mark.parametrize("override", ["model.hidden_size=128", "optim.rank=7", "train.seed=9", "log.run_name=x"])
def test_settings_that_no_score_depends_on_are_refused(galore: Any, scored: Any, override: str) -> None:
    for recipe in ((), ("--recipe", "demo")):
        refused = galore("eval", "runs/a", override, *recipe)
        assert refused.exit_code == 2
        assert f"{override.partition('=')[0]}: says how a model is made" in refused.stderr


def test_settings_that_a_score_depends_on_are_taken(galore: Any, scored: Any) -> None:
    longer = ["data.max_length=512", "model.max_position_embeddings=512", "model.rope={type: yarn, factor: 8}"]
    batches = ["train.micro_batch_size=2", "eval.max_tokens=9", "train.num_threads=1"]
    assert galore("eval", "runs/a", "--recipe", "demo", *longer, *batches).exit_code == 0


def test_a_loss_that_is_nan_is_strict_json(galore: Any, calls: Any, scored: Any) -> None:
    nan = float("nan")
    result = EvalResult(loss_nats=nan, perplexity=nan, tokens=4, mode="token", batches=3, nats=nan, bytes=16)
    made = SimpleNamespace(result=result, origin="runs/a", step=7, skipped=(), notes=[])
    calls.replace("galore.trainer.trained.evaluation", evaluate_stored=made)
    facts = json.loads(galore("eval", "runs/a", "--json").stdout, parse_constant=pytest.fail)
    assert (facts["loss_nats"], facts["loss_nats_is"]) == (None, "nan")


@pytest.fixture
def tasks(calls: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setitem(sys.modules, "lm_eval", SimpleNamespace())
    scored = SimpleNamespace(
        results={"arc_easy": {"acc": 0.25, "acc_stderr": 0.01}}, versions={"arc_easy": 1.0}, num_fewshot={"arc_easy": 0},
        origin="runs/a/step-7", step=7, skipped=SKIPPED,
    )  # fmt: skip
    calls.replace("galore.trainer.machine.device", choose_device="cpu")
    calls.replace("galore.trainer.trained.harness", evaluate_tasks=scored, Asked="asked")
    return calls


def test_benchmarks(galore: Any, tasks: Any) -> None:
    shown = galore(
        "eval", "runs/a", "--tasks", "arc_easy, hellaswag", "--limit", "9", "--batch-size", "4", "--shots", "0"
    )
    assert shown.stdout.splitlines()[0] == "runs/a/step-7"
    assert shown.stdout.splitlines()[2].split() == ["arc_easy", "acc", "0.2500", "0.0100", "0"]
    assert "skipped step-00000009" in shown.stderr
    asked = {"limit": 9, "num_fewshot": 0, "batch_size": 4, "include_path": None}
    assert tasks.made[-3] == ((["arc_easy", "hellaswag"],), asked | {"apply_chat_template": False, "checkpoint": None})
    assert tasks.made[-1] == (("runs/a", "asked", "cpu"), {})
    facts = json.loads(galore("eval", "runs/a", "--tasks", "arc_easy", "--json").stdout)
    assert facts["results"] == {"arc_easy": {"acc": 0.25, "acc_stderr": 0.01}}
    assert (facts["model"], facts["step"], facts["versions"]) == ("runs/a/step-7", 7, {"arc_easy": 1.0})


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--tasks", "a", "--recipe", "demo"), "--tasks: scores no held-out text"),
        (("--tasks", "a", "eval.max_tokens=5"), "--tasks: scores no held-out text"),
        (("--tasks", " , "), "--tasks: names no task"),
        (("--limit", "5"), "--limit: is for benchmarks"),
        (("--chat",), "--chat: is for benchmarks"),
        (("--shots", "0"), "--shots: is for benchmarks"),
        (("--batch-size", "8"), "--batch-size: is for benchmarks"),
        (("--include-path", "here"), "--include-path: is for benchmarks"),
        (("--tries", "7"), "--tries: is for passkeys"),
        (("--seed", "0"), "--seed: is for passkeys"),
        (("--tasks", "a", "--seed", "0"), "--seed: is for passkeys"),
        (("--passkey", "128", "--mode", "paper"), "--passkey: scores no held-out text"),
        (("--passkey", "128", "--max-tokens", "9"), "--passkey: scores no held-out text"),
    ],
)
def test_benchmarks_and_held_out_text_are_not_mixed(
    galore: Any, tasks: Any, options: tuple[str, ...], told: str
) -> None:
    refused = galore("eval", "runs/a", *options)
    assert refused.exit_code == 2
    assert told in refused.stderr


def test_benchmarks_need_their_extra(galore: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    refused = galore("eval", "runs/a", "--tasks", "arc_easy")
    assert refused.exit_code == 2
    assert "galore-llm[eval]" in refused.stderr
