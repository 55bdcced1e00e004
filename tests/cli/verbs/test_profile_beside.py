"""`galore profile-memory` beside other methods and beside real steps, on recipes that are traced in an instant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.usefixtures("traced_recipes")


def profile(galore: Any, *arguments: str) -> Any:
    shown = galore("profile-memory", *arguments)
    assert shown.exit_code == 0, shown.output
    return shown


# -- comparison


def test_compare(galore: Any) -> None:
    pytest.importorskip("peft")
    pytest.importorskip("matplotlib")
    shown = profile(galore, "tiny.yaml", "--gpu", "rtx4090", "--compare", "--picture", "bars.png")
    lines = shown.stdout.splitlines()
    assert lines[0].startswith("tiny on NVIDIA GeForce RTX 4090, ")
    names = ["AdamW", "AdamW 8-bit", "LoRA r=8", "GaLore r=8", "GaLore r=8, update in the hook"]
    for name, line in zip(names, lines[2:], strict=False):
        assert line.strip().startswith(name)
        assert line.rstrip().endswith("yes")
    assert lines[-1].startswith("LoRA trains its adapters alone here. The shipped -lora recipes also train embeddings")
    assert shown.stderr == "wrote bars.png\n"
    assert Path("bars.png").read_bytes().startswith(b"\x89PNG")


def test_compare_with_lora_that_trains_more_than_its_adapters(galore: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from galore.trainer.fit import compare

    pytest.importorskip("peft")
    monkeypatch.setattr(compare, "methods", lambda recipe: {"LoRA r=8": {}})
    settings = ("optim.method=lora", "optim.train_modules=[embed_tokens,lm_head,norm]")
    assert "adapters alone" not in profile(galore, "tiny.yaml", *settings, "--compare").stdout


def test_a_classifier_is_not_advised_to_train_what_it_has_not(tiny_roberta: Any, galore: Any) -> None:
    pytest.importorskip("peft")
    named = (f"model.name_or_path={tiny_roberta}", "data.max_length=32", "train.micro_batch_size=2")
    shown = profile(galore, "roberta-glue-galore-r4", *named, "--gpu", "rtx4090", "--compare").stdout
    assert "LoRA r=4" in shown
    assert "adapters alone" not in shown


def test_compare_as_json_and_with_a_method_that_is_ruled_out(galore: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from galore.trainer.fit import compare

    monkeypatch.setattr(compare, "methods", lambda recipe: {"Magic": {"optim.method": "magic"}, "As it is": {}})
    found = json.loads(profile(galore, "tiny.yaml", "--gpu", "rtx4090", "--compare", "--json").stdout)
    assert found["Magic"] is None
    assert found["As it is"]["fits"] is True
    assert found["As it is"]["categories"]["projectors"] > 0
    shown = profile(galore, "tiny.yaml", "--compare").stdout
    assert shown.startswith("The figures below are for one ")  # the recipe is for the CPU
    assert "ruled out by the recipe's other settings" in shown


# -- measurement


def test_measure(galore: Any) -> None:
    shown = profile(galore, "tiny.yaml", "--measure")
    lines = [" ".join(line.split()) for line in shown.stdout.splitlines()]
    assert lines[0] == "tiny on the CPU, bytes at the peak"
    weights = next(line.split() for line in lines if line.startswith("weights"))
    assert weights[1] == weights[2]
    assert weights[3] == "+0.000"
    assert "Measured: torch's CPU allocator" in shown.stdout


def test_measure_as_json(galore: Any) -> None:
    found = json.loads(profile(galore, "tiny.yaml", "--measure", "--json").stdout)
    assert abs(found["error_fraction"]) < 0.005
    assert found["categories"]["weights"]["predicted"] == found["categories"]["weights"]["measured"] > 0
