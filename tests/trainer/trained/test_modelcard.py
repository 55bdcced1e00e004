"""The README of an exported model: what it is, how it came about, and nothing of the machine that trained it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from galore.trainer.recipe.load import load_recipe
from galore.trainer.record.rundir import RunDir
from galore.trainer.trained.modelcard import model_card
from galore.trainer.trained.runmodel import StoredModel

SIZES: Any = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2}


def card(model: Any = None, **more: Any) -> str:
    model = model or LlamaForCausalLM(LlamaConfig(vocab_size=10, **SIZES))
    return model_card(StoredModel(model, None, "/secret/place/step-7", **more))  # type: ignore[arg-type]


def test_a_model_that_is_no_run() -> None:
    text = card()
    front = yaml.safe_load(text.split("---\n")[1])
    assert front == {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["galore"]}
    assert "| architecture | LlamaForCausalLM |\n| parameters | 728 |\n| dtype | float32 |\n| vocabulary | 10 |" in text
    assert "| hidden size | 8 |" in text
    assert "## Training" not in text
    assert "## Held-out text" not in text


def test_a_classifier_is_loaded_as_one() -> None:
    config = LlamaConfig(vocab_size=10, architectures=["LlamaForSequenceClassification"], **SIZES)
    text = card(LlamaForSequenceClassification(config))
    assert "pipeline_tag: text-classification\n" in text
    assert "AutoModelForSequenceClassification.from_pretrained" in text
    assert "AutoModelForCausalLM" not in text


@pytest.mark.parametrize(
    ("override", "told", "untold"),
    [
        ("optim.method=galore", ["| method | galore |", "| rank | 64 |", "| subspace refresh every | 50 steps |"], []),
        ("optim.method=lora", ["| method | lora |", "| rank | 64 |"], ["subspace refresh"]),
        ("optim.method=full", ["| method | full |"], ["| rank |", "subspace refresh", "target modules"]),
    ],
)
def test_how_it_was_trained(override: str, told: list[str], untold: list[str]) -> None:
    text = card(recipe=load_recipe("demo", [override]).recipe, step=7)
    for line in ("| optimizer steps | 7 |", *told):
        assert line in text
    assert not [each for each in untold if each in text]


def test_its_scores_and_no_place(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run", resume=False)
    run.write_facts({"final": {"loss_nats": 3.2512345, "tokens": 40}})
    recipe = load_recipe("demo", ["data.source=local", "data.path=secret.txt"]).recipe
    text = card(run=run, recipe=recipe, step=7)
    assert "## Held-out text\n\n| | |\n|---|---|\n| loss nats | 3.2512 |\n| tokens | 40 |\n" in text
    assert "secret" not in text
    assert str(tmp_path) not in text
