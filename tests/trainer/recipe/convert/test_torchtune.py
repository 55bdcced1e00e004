"""What torchtune's sections, builders and silent defaults become."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from galore.trainer.common.errors import UserError
from galore.trainer.recipe.convert.convert import Converted, convert

EXAMPLE = yaml.safe_load((Path(__file__).parent / "files/torchtune.yaml").read_text())
ADAPTERS = {"_component_": "torchtune.models.llama3_1.lora_llama3_1_8b", "lora_attn_modules": ["q_proj", "output_proj"]}


def made(folder: Path, **changes: Any) -> tuple[Converted, dict[str, Any]]:
    """The example with some sections changed, and the section optim that it gives."""
    (folder / "theirs.yaml").write_text(yaml.safe_dump(EXAMPLE | changes, sort_keys=False))
    converted = convert(str(folder / "theirs.yaml"), "torchtune")
    return converted, yaml.safe_load(converted.text)["optim"]


def why(converted: Converted, key: str) -> str:
    (told,) = [each for each in converted.told if each.key == key]
    return told.why


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({}, ["q_proj", "o_proj"]),
        ({"apply_lora_to_mlp": True}, ["q_proj", "o_proj", "mlp"]),
        ({"apply_lora_to_mlp": False, "apply_lora_to_output": True}, ["q_proj", "o_proj", "lm_head"]),
        ({"lora_attn_modules": [], "apply_lora_to_mlp": True}, ["mlp"]),
        ({"lora_attn_modules": ["w1", "w2", "w3"]}, ["gate_proj", "down_proj", "up_proj"]),
        ({"lora_attn_modules": "v_proj"}, ["v_proj"]),
        ({"lora_attn_modules": []}, None),
    ],
)
def test_adapted_modules_have_the_names_of_transformers(
    model: dict[str, Any], expected: list[str] | None, tmp_path: Path
) -> None:
    converted, optim = made(tmp_path, model=ADAPTERS | model)
    assert optim.get("target_modules") == expected
    for key in model:
        assert "optim.target_modules" in why(converted, f"model.{key}")


def test_silent_defaults_are_those_of_its_builders(tmp_path: Path) -> None:
    converted, optim = made(tmp_path, model=ADAPTERS, optimizer={"_component_": "torch.optim.AdamW", "lr": 3e-4})
    assert (optim["rank"], optim["lora_alpha"], optim["weight_decay"]) == (8, 16, 0.01)
    assert {"model.lora_rank", "model.lora_alpha", "optimizer.weight_decay"} <= {
        each.key for each in converted.told if not each.line
    }
    given = {"_component_": "torch.optim.AdamW", "weight_decay": 0.1}
    _, optim = made(tmp_path, model=ADAPTERS | {"lora_rank": 64, "lora_alpha": 128}, optimizer=given)
    assert (optim["rank"], optim["lora_alpha"], optim["weight_decay"]) == (64, 128, 0.1)
    _, optim = made(tmp_path, optimizer={"_component_": "torch.optim.AdamW", "betas": [0.9, 0.95]})
    assert (optim["adam_beta1"], optim["adam_beta2"]) == (0.9, 0.95)
    for betas in (0.9, [0.9], [0.8, 1.0], [1.0, 0.999], ["a: b", 0.9]):
        alone, optim = made(tmp_path, optimizer={"_component_": "torch.optim.AdamW", "betas": betas})
        assert {"adam_beta1", "adam_beta2"}.isdisjoint(optim)
        assert "it is no list of two numbers" in why(alone, "optimizer.betas")
    _, optim = made(tmp_path, optimizer={"_component_": "torch.optim.Adam"})
    assert {"rank", "lora_alpha", "weight_decay"}.isdisjoint(optim)


@pytest.mark.parametrize("tokenizer", [{"path": "x"}, {"path": "x", "max_seq_len": None}])
def test_examples_of_any_length_are_told_to_be_cut(tokenizer: dict[str, Any], tmp_path: Path) -> None:
    converted, _ = made(tmp_path, tokenizer=tokenizer)
    assert "data.max_length is 256 here" in why(converted, "tokenizer.max_seq_len")
    assert "what is longer is cut off" in why(converted, "tokenizer.max_seq_len")
    converted, _ = made(tmp_path, tokenizer={"path": "x"}, dataset=EXAMPLE["dataset"] | {"max_seq_len": 512})
    assert yaml.safe_load(converted.text)["data"]["max_length"] == 512
    assert not any(each.key == "tokenizer.max_seq_len" for each in converted.told)


def test_a_name_means_what_its_section_says(tmp_path: Path) -> None:
    changes = {
        "optimizer": EXAMPLE["optimizer"] | {"fused": True},
        "profiler": {"warmup_steps": 3, "num_cycles": 1, "active_steps": 2},
        "dataset": EXAMPLE["dataset"] | {"name": "en"},
        "dataset_val": {"_component_": "torchtune.datasets.alpaca_dataset", "split": "test", "packed": True},
        "lr_scheduler": {"_component_": "get_constant_schedule"},
    }
    converted, optim = made(tmp_path, **changes)
    recipe = yaml.safe_load(converted.text)
    assert "fused" not in recipe["train"]
    assert "torch's fused or foreach ways" in why(converted, "optimizer.fused")
    assert (optim["warmup_steps"], optim.get("lr_num_cycles")) == (0, None)
    data = recipe["data"]
    assert (data["split"], data["packing"], data["hub_config"], data["validation_fraction"]) == (
        "train",
        "paper",
        "en",
        0,
    )
    assert "run_name" not in recipe["log"]


SETS = "torchtune.datasets."


def data_of(folder: Path, dataset: Any) -> tuple[Converted, dict[str, Any]]:
    converted, _ = made(folder, dataset=dataset)
    return converted, yaml.safe_load(converted.text)["data"]


def test_a_list_of_data_sets_becomes_sources(tmp_path: Path) -> None:
    chat = {"_component_": f"{SETS}chat_dataset", "source": "json", "data_files": "my.json", "conversation_column": "c"}
    summary = {"_component_": f"{SETS}samsum_dataset", "packed": True, "column_map": {"input": "q", "tone": "t"}}
    converted, data = data_of(tmp_path, [chat, summary, {"_component_": f"{SETS}alpaca_dataset"}])
    one, two, three = data["sources"]
    assert (one["path"], one["messages_field"]) == ("my.json", "c")
    assert (two["name"], two["prompt_field"], two["response_field"]) == ("Samsung/samsum", "q", "summary")
    assert (three["name"], three["split"], three["input_field"]) == ("tatsu-lab/alpaca", "train", "input")
    assert why(converted, "dataset[1].packed") == "data.packing is one for all of them"
    assert why(converted, "dataset[2].train_on_input") == "data.loss_on is one for all of them"
    (tone,) = [each for each in converted.told if each.key == "dataset[1].column_map.tone"]
    assert (tone.fate, tone.value) == ("left out", "t")
    assert (tmp_path / "theirs.yaml").read_text().splitlines()[tone.line - 1].strip() == "tone: t"
    assert (data["packing"], "loss_on" in data) == ("paper", False)
    alike = [{"_component_": f"{SETS}alpaca_dataset", "packed": True, "split": split} for split in ("train", "test")]
    _, data = data_of(tmp_path, alike)
    assert (data["packing"], data["loss_on"]) == ("packed", "all")


@pytest.mark.parametrize(
    ("builder", "says", "loss_on"),
    [
        ("alpaca_dataset", {}, "all"),
        ("alpaca_cleaned_dataset", {}, "all"),
        ("alpaca_dataset", {"train_on_input": False}, "responses"),
        ("alpaca_dataset", {"masking_strategy": "train_on_last"}, "last"),
        ("instruct_dataset", {"source": "me/x", "masking_strategy": "train_on_all"}, "all"),
        ("instruct_dataset", {"source": "me/x", "masking_strategy": "other"}, None),
        ("samsum_dataset", {}, None),
    ],
)
def test_targets_are_those_of_the_builder(
    builder: str, says: dict[str, Any], loss_on: str | None, tmp_path: Path
) -> None:
    _, data = data_of(tmp_path, {"_component_": f"{SETS}{builder}", **says})
    assert data.get("loss_on") == loss_on


def test_some_files_of_a_data_set_do_not_become_all_of_it(tmp_path: Path) -> None:
    chosen = {"_component_": f"{SETS}chat_dataset", "source": "me/x", "data_files": "first.json"}
    for dataset in (chosen, [chosen]):
        with pytest.raises(UserError, match=r"'first.json' are some of the files of me/x, which is read whole"):
            data_of(tmp_path, dataset)
