"""The README of an exported model: what it is, how it came about, and nothing of the machine that trained it."""

from __future__ import annotations

import json
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


def test_a_model_of_instructions_is_called_one(tmp_path: Path) -> None:
    (tmp_path / "chat.jsonl").touch()
    (tmp_path / "model").mkdir()
    (tmp_path / "my.yaml").write_text(
        "extends: finetune-chat\nmodel: {name_or_path: model}\ndata: {path: chat.jsonl}\n"
    )
    assert "language model trained with galore on instructions\n" in card(
        recipe=load_recipe(str(tmp_path / "my.yaml")).recipe, step=7
    )
    assert "language model trained with galore\n" in card(recipe=load_recipe("demo").recipe, step=7)


def test_its_scores_and_no_place(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run", resume=False)
    run.write_facts({"final": {"step": 7, "loss_nats": 3.2512345, "tokens": 40}})
    recipe = load_recipe("demo", ["data.source=local", "data.path=secret.txt"]).recipe
    text = card(run=run, recipe=recipe, step=7)
    assert "## Held-out text\n\n| | |\n|---|---|\n| step | 7 |\n| loss nats | 3.2512 |\n| tokens | 40 |\n" in text
    assert "secret" not in text
    assert str(tmp_path) not in text


def test_the_scores_are_those_of_the_step_that_is_exported(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run", resume=False)
    run.write_facts({"final": {"step": 4, "loss_nats": 3.25, "perplexity": 25.8}})
    rows = [{"kind": "train", "step": 1, "loss_nats": 9.0}]
    rows += [{"kind": "eval", "step": step, "loss_nats": 6.0 - step, "perplexity": 99.0} for step in (1, 2)]
    run.metrics.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    recipe = load_recipe("demo").recipe
    for step, loss in ((1, 5.0), (2, 4.0), (3, None), (4, 3.25)):
        text = card(run=run, recipe=recipe, step=step)
        results = yaml.safe_load(text.split("---\n")[1]).get("model-index", [{"results": []}])[0]["results"]
        assert [each["value"] for result in results for each in result["metrics"][:1]] == ([loss] if loss else [])
        assert ("## Held-out text" in text) == (loss is not None)
        assert loss is None or f"| step | {step} |\n| loss nats | {loss:.5g} |" in text


def test_what_the_hub_reads_of_it(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run", resume=False)
    run.write_facts({"final": {"step": 7, "loss_nats": 3.25, "perplexity": float("inf"), "mode": "token"}})
    overrides = ["model.name_or_path=some/base", "data.source=hub", "data.path=their/data"]
    recipe = load_recipe("finetune-instruct", overrides).recipe
    text = card(run=run, recipe=recipe, step=7)
    front = yaml.safe_load(
        model_card(StoredModel(_llama(), None, "x", run, recipe, 7), "mine", "mit").split("---\n")[1]
    )  # type: ignore[arg-type]
    assert (front["base_model"], front["datasets"], front["license"]) == ("some/base", ["their/data"], "mit")
    (result,) = front["model-index"][0]["results"]
    assert front["model-index"][0]["name"] == "mine"
    assert result["dataset"]["type"] == "their/data"
    assert result["metrics"] == [{"type": "loss_nats", "value": 3.25, "name": "loss nats"}]
    assert "license" not in yaml.safe_load(text.split("---\n")[1])
    mixed = load_recipe(
        "finetune-instruct", ["data.sources=[{name: their/data}, {name: your/data}, {path: mine.json}]"]
    )
    front = yaml.safe_load(card(run=run, recipe=mixed.recipe, step=7).split("---\n")[1])
    assert front["datasets"] == ["their/data", "your/data"]
    assert front["model-index"][0]["results"][0]["dataset"]["type"] == "text"


def test_a_local_base_and_local_data_are_told_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some/base").mkdir(parents=True)
    for base in (str(tmp_path / "secret"), "some/base"):
        recipe = load_recipe("demo", [f"model.name_or_path={base}", "data.source=local", "data.path=secret/x"]).recipe
        front = yaml.safe_load(card(recipe=recipe, step=7).split("---\n")[1])
        assert not {"base_model", "datasets"} & set(front)


def _llama() -> Any:
    return LlamaForCausalLM(LlamaConfig(vocab_size=10, **SIZES))
