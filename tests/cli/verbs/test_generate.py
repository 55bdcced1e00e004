"""`galore generate`: what is drawn, and with which threads."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest


def test_generate(galore: Any, calls: Any) -> None:
    calls.replace("galore.trainer.machine.device", choose_device="cpu", choose_threads=None)
    calls.replace(
        "galore.trainer.trained.runmodel",
        load_run_model=SimpleNamespace(model="M", tokenizer="T", skipped=(), recipe=None),
    )
    calls.replace("galore.trainer.models.generate", sample="Once upon a time")
    shown = galore(
        "generate", "runs/a", "--prompt", "Once", "--temperature", "0.5", "--seed", "3", "--checkpoint", "best"
    )
    assert shown.stdout == "Once upon a time\n"
    assert calls.made[1] == (("runs/a", "cpu", "best"), {})
    settings = {"max_new_tokens": 60, "seed": 3, "temperature": 0.5, "top_p": 1.0, "top_k": 0, "chat": False}
    assert calls.made[2] == (("M", "T", "Once"), settings)


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_is_not_steered_and_a_file_has_the_very_text(
    galore: Any, calls: Any, monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    said, replaced = "red\x1b]0;\x07", "\N{REPLACEMENT CHARACTER}"
    stored = SimpleNamespace(model="M", tokenizer="T", skipped=(), recipe=None)
    calls.replace("galore.trainer.machine.device", choose_device="cpu", choose_threads=None)
    calls.replace("galore.trainer.trained.runmodel", load_run_model=stored)
    calls.replace("galore.trainer.models.generate", sample=said)
    monkeypatch.setattr("typer.testing._NamedTextIOWrapper.isatty", lambda _: terminal, raising=False)
    shown = galore("generate", "runs/a", "--prompt", "a\udcffb")
    assert shown.stdout == (f"red{replaced}]0;{replaced}\n" if terminal else f"{said}\n")
    assert calls.made[2][0] == ("M", "T", f"a{replaced}b")


def test_generate_takes_the_threads_of_the_run(galore: Any, calls: Any) -> None:
    recipe = SimpleNamespace(train=SimpleNamespace(num_threads=3), data=SimpleNamespace(instruct=True))
    stored = SimpleNamespace(model="M", tokenizer="T", skipped=(), recipe=recipe)
    calls.replace("galore.trainer.machine.device", choose_device="cpu", choose_threads=None)
    calls.replace("galore.trainer.trained.runmodel", load_run_model=stored)
    calls.replace("galore.trainer.models.generate", sample="Once upon a time")
    galore("generate", "runs/a", "--prompt", "Once")
    assert ((3,), {}) in calls.made


@pytest.mark.parametrize("verb", [["generate", "runs/a", "--prompt", "Once"], ["chat", "runs/a"]])
def test_what_cannot_be_computed_with_is_refused_before_anything_is_loaded(galore: Any, verb: list[str]) -> None:
    cold, not_a_number = (galore(*verb, "--temperature", given) for given in ("1e-7", "nan"))
    assert (cold.exit_code, not_a_number.exit_code) == (2, 2)
    assert "1e-07 is colder than can be computed with" in cold.stderr
