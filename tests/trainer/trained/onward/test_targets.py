"""Files for other toolkits: what they say, what is told not to be in them, and their schemas where those are here."""

from __future__ import annotations

import dataclasses
import json
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import LlamaConfig, Qwen3Config

from galore.trainer.common.errors import UserError
from galore.trainer.recipe.convert.convert import convert
from galore.trainer.recipe.load import load_recipe
from galore.trainer.trained.onward.axolotl import AXOLOTL
from galore.trainer.trained.onward.target import kind_of_file
from galore.trainer.trained.onward.targets import TARGETS, hand_over, target_of
from galore.trainer.trained.onward.torchtitan import TORCHTITAN

LLAMA = {
    "vocab_size": 500, "hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128,
}  # fmt: skip
TEXT = ["data.source=local", "data.path=texts/*.jsonl", "data.tokenizer_vocab_size=4096"]
CHATS = ["data.source=local", "data.path=chats.jsonl", "data.messages_field=messages"]
PROMPTS = ["data.source=local", "data.path=chats.jsonl", "data.prompt_field=q", "data.response_field=a"]
HUB = ["data.source=hub", "data.path=allenai/c4", "data.hub_config=en", "data.text_field=text"]
METHODS = {
    "galore": [],
    "galore-8bit": ["optim.state_dtype=8bit"],
    "share": ["optim.rank=0.25"],
    "lora": ["optim.method=lora", "optim.rank=8", "optim.train_modules=[lm_head]"],
    "full": ["optim.method=full", "optim.state_dtype=8bit"],
    "adafactor": ["optim.method=full", "optim.inner=adafactor"],
}
OPTIMIZERS = {
    "galore": "galore_adamw", "galore-8bit": "galore_adamw_8bit", "share": "adamw_torch", "lora": "adamw_torch",
    "full": "adamw_bnb_8bit", "adafactor": "adafactor",
}  # fmt: skip


def handed(tmp_path: Path, name: str, *settings: str, config: Any = None, steps: int = 500) -> tuple[Any, list[str]]:
    """The toolkit's configuration, read back, and what it does not say."""
    config = config or LlamaConfig(**LLAMA)
    left = hand_over(TARGETS[name], load_recipe("demo", settings).recipe, config, steps, tmp_path)
    if name == "axolotl":
        return yaml.safe_load((tmp_path / "axolotl.yaml").read_text()), left
    return tomllib.loads((tmp_path / "torchtitan.toml").read_text()), left


@pytest.mark.parametrize("method", METHODS)
def test_axolotls_file_comes_back_as_the_same_recipe(tmp_path: Path, method: str) -> None:
    settings = [*TEXT, *METHODS[method], "optim.learning_rate=0.002", "data.max_length=64", "eval.eval_steps=100"]
    values, _ = handed(tmp_path, "axolotl", *settings)
    assert values["optimizer"] == OPTIMIZERS[method]
    back = yaml.safe_load(convert(str(tmp_path / "axolotl.yaml"), "axolotl").text)
    mine = load_recipe("demo", settings).recipe
    assert back["optim"]["method"] == ("full" if method == "share" else mine.optim.method)
    assert back["optim"]["learning_rate"] == 0.002
    assert back["data"]["max_length"] == 64
    assert back["train"]["global_batch_size"] == mine.train.global_batch_size
    assert back["train"]["max_steps"] == mine.train.max_steps
    assert back["eval"]["eval_steps"] == 100


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (TEXT, {"path": "*.jsonl", "ds_type": "json", "type": "completion", "field": "text"}),
        (CHATS, {"path": "chats.jsonl", "ds_type": "json", "type": "chat_template", "field_messages": "messages"}),
        (HUB, {"path": "allenai/c4", "name": "en", "split": "train", "type": "completion", "field": "text"}),
    ],
)
def test_where_axolotl_finds_the_texts(tmp_path: Path, settings: list[str], expected: dict[str, str]) -> None:
    assert handed(tmp_path, "axolotl", *settings)[0]["datasets"] == [expected]


def test_prompts_and_answers_are_columns(tmp_path: Path) -> None:
    values, left = handed(tmp_path, "axolotl", *PROMPTS)
    assert values["datasets"][0]["type"]["field_output"] == "a"
    assert any(line.startswith("data.chat_template") for line in left)


def test_what_is_not_said_is_told_line_by_line(tmp_path: Path) -> None:
    settings = ["optim.residual=fira", "optim.refresh_overlap=0.5", "train.z_loss=0.0001", "train.micro_batch_size=8"]
    left = [line.partition(":")[0] for line in handed(tmp_path, "axolotl", *TEXT, *settings)[1]]
    assert {"optim.residual", "optim.refresh_overlap", "train.z_loss"} <= {*left}
    assert not {"train.micro_batch_size", "train.save_steps", "optim.rank"} & {*left}
    found = {line.partition(":")[0] for line in handed(tmp_path, "torchtitan", *TEXT, *settings)[1]}
    assert {"optim.residual", "optim.rank", "train.z_loss", "optim.method"} <= found


@pytest.mark.parametrize(
    ("name", "settings", "untold"),
    [
        ("torchtitan", ["optim.method=full"], ["method", "rank", "update_proj_gap", "target_modules"]),
        ("axolotl", ["optim.method=full"], ["method", "rank", "update_proj_gap", "target_modules"]),
        ("axolotl", ["optim.method=lora", "optim.rank=8"], ["rank", "update_proj_gap"]),
        ("axolotl", ["optim.lora_alpha=8"], ["lora_alpha"]),
    ],
)
def test_nothing_is_told_of_settings_of_other_methods(
    tmp_path: Path, name: str, settings: list[str], untold: list[str]
) -> None:
    _, left = handed(
        tmp_path, name, *TEXT, "optim.target_modules=[mlp]", "optim.update_proj_gap=7", "optim.scale=null", *settings
    )
    assert not [line for line in left if line.startswith(tuple(f"optim.{each}:" for each in untold))]


def test_full_rank_of_another_rule_tells_of_it(tmp_path: Path) -> None:
    _, left = handed(tmp_path, "torchtitan", *TEXT, "optim.method=full", "optim.inner=muon", "optim.scale=0.5")
    assert {"optim.inner: muon has no equivalent", "optim.scale: 0.5 has no equivalent"} <= set(left)


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize(
    ("settings", "factor"),
    [
        (["optim.method=full", "optim.scale=0.5"], "0.5"),
        (["optim.method=full", "optim.scale=1.0"], None),
        (["optim.method=full", "optim.scale=null"], None),
        (["optim.method=lora", "optim.rank=8", "optim.scale=0.5"], None),
        (["optim.method=lora", "optim.adapter=factors", "optim.rank=8", "optim.scale=0.5"], "0.5"),
        (["optim.rank=8", "optim.scale=0.5"], None),
    ],
)
def test_a_factor_on_the_targets_is_told_where_nothing_written_has_it(
    tmp_path: Path, name: str, settings: list[str], factor: str | None
) -> None:
    _, left = handed(tmp_path, name, *TEXT, *settings)
    told = [] if factor is None else [f"optim.scale: {factor} has no equivalent"]
    assert [line for line in left if line.startswith("optim.scale:")] == told


def test_axolotl_tells_the_factor_of_a_share_and_the_states_and_targets_that_it_has_not(tmp_path: Path) -> None:
    share = handed(tmp_path, "axolotl", *TEXT, "optim.rank=0.25", "optim.scale=null")[1]
    assert "optim.scale: 0.25 has no equivalent" in share
    muon = ["optim.method=full", "optim.inner=muon", "optim.target_modules=[mlp]", "optim.state_dtype=4bit"]
    (tmp_path / "muon").mkdir()
    left = {*handed(tmp_path / "muon", "axolotl", *TEXT, *muon)[1]}
    assert {"optim.target_modules: [mlp] has no equivalent", "optim.state_dtype: 4bit has no equivalent"} <= left


def test_one_rate_of_embeddings_and_head_is_axolotls_and_two_are_told(tmp_path: Path) -> None:
    rates = ["optim.embedding_learning_rate=0.003", "optim.head_learning_rate=0.003"]
    values, left = handed(tmp_path, "axolotl", *TEXT, *rates)
    assert values["embedding_lr"] == 0.003
    assert not any("learning_rate" in line for line in left)
    (tmp_path / "other").mkdir()
    values, left = handed(tmp_path / "other", "axolotl", *TEXT, rates[0])
    assert "embedding_lr" not in values
    assert "optim.embedding_learning_rate: 0.003 has no equivalent" in left


def test_of_several_files_and_sources_one_is_taken_and_the_rest_told(tmp_path: Path) -> None:
    values, left = handed(tmp_path, "axolotl", "data.source=local", "data.path=[a.txt, b.txt]")
    assert values["datasets"][0]["path"] == "a.txt"
    assert "data.path: put a.txt into the folder; the other 1 are left out" in left
    (tmp_path / "other").mkdir()
    assert "put a text file at corpus.txt" in " ".join(handed(tmp_path / "other", "axolotl")[1])


def test_torchtitans_file(tmp_path: Path) -> None:
    values, left = handed(
        tmp_path, "torchtitan", *TEXT, "optim.warmup_ratio=0.1", "train.max_steps=null", "train.num_train_epochs=2"
    )
    assert values["training"]["steps"] == 500
    assert values["lr_scheduler"] == {"warmup_steps": 50, "min_lr_factor": 0.1, "decay_type": "cosine"}
    assert values["optimizer"]["lr"] == pytest.approx(0.01 * 0.25)
    assert values["checkpoint"]["initial_load_in_hf"] is True
    assert any(line.startswith("train.num_train_epochs: 500 steps") for line in left)
    compile((tmp_path / "torchtitan_model.py").read_text(), "torchtitan_model.py", "exec")


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", {"decay_ratio": 0.0}),
        ("linear", {"decay_type": "linear"}),
        ("warmup_stable_decay", {"decay_ratio": 0.1, "decay_type": "cosine"}),
        ("inverse_sqrt", {"decay_type": "cosine"}),
    ],
)
def test_schedules_of_torchtitan(tmp_path: Path, schedule: str, expected: dict[str, Any]) -> None:
    values, left = handed(tmp_path, "torchtitan", *TEXT, f"optim.lr_scheduler_type={schedule}")
    assert {**values["lr_scheduler"], **expected} == values["lr_scheduler"]
    assert any("inverse_sqrt is not there" in line for line in left) is (schedule == "inverse_sqrt")


@pytest.mark.parametrize(
    ("config", "settings", "wrong"),
    [
        (LlamaConfig(**LLAMA, tie_word_embeddings=True), TEXT, "tied embeddings"),
        (LlamaConfig(**LLAMA, attention_bias=True), TEXT, "biases"),
        (LlamaConfig(**LLAMA, head_dim=32), TEXT, "another width"),
        (
            LlamaConfig(**LLAMA, rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}),
            TEXT,
            "type linear",
        ),
        (Qwen3Config(**LLAMA), TEXT, "architecture qwen3"),
        (LlamaConfig(**LLAMA), CHATS, "trains on text"),
    ],
)
def test_what_torchtitans_llama_is_not_is_refused(tmp_path: Path, config: Any, settings: list[str], wrong: str) -> None:
    with pytest.raises(UserError, match=wrong):
        handed(tmp_path, "torchtitan", *settings, config=config)
    assert not list(tmp_path.iterdir())


def test_what_has_no_recipe_or_classifies_is_refused(tmp_path: Path) -> None:
    assert TARGETS == {"axolotl": AXOLOTL, "torchtitan": TORCHTITAN}
    with pytest.raises(UserError, match="has no recipe"):
        hand_over(TARGETS["axolotl"], None, LlamaConfig(), 1, tmp_path)
    with pytest.raises(UserError, match="classifies"):
        hand_over(TARGETS["axolotl"], load_recipe("roberta-glue-galore-r4", []).recipe, LlamaConfig(), 1, tmp_path)
    with pytest.raises(UserError, match="axolotl or torchtitan"):
        target_of("deepspeed")


def test_the_format_of_a_file_by_its_name() -> None:
    assert [kind_of_file(name) for name in ("a/*.jsonl.gz", "b.txt", "c.parquet", "d")] == [
        "json",
        "text",
        "parquet",
        "json",
    ]


# -- against the toolkits themselves, where they are installed


@pytest.mark.parametrize("data", [TEXT, CHATS, PROMPTS, HUB, []])
@pytest.mark.parametrize("method", METHODS)
def test_axolotl_takes_the_file(tmp_path: Path, method: str, data: list[str]) -> None:
    schema = pytest.importorskip("axolotl.utils.schemas.config", reason="axolotl is not installed").AxolotlInputConfig
    values, _ = handed(tmp_path, "axolotl", *data, *METHODS[method])
    schema.model_validate(json.loads(json.dumps(values)))
    assert not set(values) - set(schema.model_fields)


@pytest.mark.parametrize("width", [100, 176, 400])
def test_torchtitan_takes_the_files_and_builds_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    config = pytest.importorskip("torchtitan.config", reason="torchtitan is not installed")
    import torch
    from torchtitan.protocols import train_spec

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torchtitan_model", raising=False)
    train_spec._extra_train_specs.pop("exported", None)
    handed(tmp_path, "torchtitan", *TEXT, config=LlamaConfig(**LLAMA | {"intermediate_size": width}))
    job = config.ConfigManager().parse_args(["--job.config_file", "torchtitan.toml"])
    assert dataclasses.is_dataclass(job)
    __import__(job.experimental.custom_import)
    spec = train_spec.get_train_spec(job.model.name)
    with torch.device("meta"):
        model = spec.model_cls(spec.model_args[job.model.flavor])
    assert model.layers["0"].feed_forward.w1.weight.shape == (width, 64)


FIRST_OF_HUB = "data.sources=[{name: allenai/c4, hub_config: en, split: train, weight: 2}, {path: corpus.txt}]"
LINES = "data.txt_document=line"


@pytest.mark.parametrize(
    ("toolkit", "settings", "written", "said"),
    [
        ("axolotl", [FIRST_OF_HUB], "path: allenai/c4", "data.sources: the first one is taken"),
        ("torchtitan", [FIRST_OF_HUB], "path='allenai/c4'", "data.sources: the first one is taken"),
        (
            "axolotl",
            ["data.path=a.jsonl", "data.text_field=[t, b]"],
            "field: t",
            "data.text_field: t alone is taken there",
        ),
        ("torchtitan", ["data.path=a.jsonl", "data.text_field=[t, b]"], "row['t']", "data.text_field: t alone"),
        (
            "axolotl",
            ["data.path=a.jsonl", "data.prompt_field=[c, q]", "data.response_field=a"],
            "field_instruction: c",
            "data.prompt_field: c alone is taken there; q left out",
        ),
        (
            "axolotl",
            ["data.path=a.jsonl", "data.messages_field=m", "data.loss_on=last"],
            "train_on_inputs: false",
            "data.loss_on: every answer of a conversation is trained there, here the last one",
        ),
        (
            "axolotl",
            ["data.path=a.tsv", "data.text_field=b"],
            "ds_type: csv",
            "data.delimiter: columns are parted by commas",
        ),
        ("torchtitan", ["data.path=a.tsv", "data.text_field=b"], "delimiter='\\t'", None),
        ("torchtitan", ["data.path=a.dat", "data.format=csv", "data.delimiter=;"], "delimiter=';'", None),
        ("axolotl", ["data.path=a.txt"], "ds_type: text", "data.txt_document: each line is a text of its own there"),
        ("torchtitan", ["data.path=a.txt"], "'text'", "data.txt_document: each line is a text of its own there"),
        ("axolotl", ["data.path=a.txt", LINES], "ds_type: text", None),
        ("torchtitan", ["data.path=a.txt", LINES], "'text'", None),
        (
            "axolotl",
            ["data.path=a.jsonl", "data.validation_path=b/held.jsonl"],
            "val_set_size: 0.0",
            "data.validation_path: put held.jsonl into the folder",
        ),
        (
            "axolotl",
            ["data.path=a.jsonl", "optim.method=lora", "optim.rank=8", "model.new_tokens=['<|x|>']"],
            "lora_modules_to_save:\n- embed_tokens\n- lm_head",
            "model.new_tokens: lora_modules_to_save trains embedding and head",
        ),
    ],
)
def test_what_data_are_is_kept_or_told(
    tmp_path: Path, toolkit: str, settings: list[str], written: str, said: str | None
) -> None:
    local = [] if settings == [FIRST_OF_HUB] else ["data.source=local"]
    _, left = handed(tmp_path, toolkit, *local, *settings)
    text = (tmp_path / ("axolotl.yaml" if toolkit == "axolotl" else "torchtitan_model.py")).read_text()
    assert written in text
    about = ("data.txt_document", "data.delimiter", "data.text_field", "data.prompt_field", "data.format")
    told = [line for line in left if line.startswith(about)]
    assert not told if said is None else any(line.startswith(said) for line in left)


def test_files_that_are_held_out_are_read_as_those_that_are_trained_on(tmp_path: Path) -> None:
    settings = ["data.source=local", "data.path=a.jsonl", "data.validation_path=[b/x.jsonl, y.jsonl]"]
    values, _ = handed(tmp_path, "axolotl", *settings)
    (trained,) = values["datasets"]
    assert values["test_datasets"] == [trained | {"path": name, "split": "train"} for name in ("x.jsonl", "y.jsonl")]
