"""Files of other toolkits become recipes that validate, and every line of them is accounted for."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from toolkit_files import FILES, settings, write, write_text
from typer.testing import CliRunner

from galore.cli.main import app
from galore.cli.verbs.recipes import Toolkit
from galore.trainer.common.errors import UserError
from galore.trainer.recipe.convert.convert import TOOLS, convert
from galore.trainer.recipe.load import load_recipe

EXPECTED: dict[str, dict[str, Any]] = {
    "llama-factory": {
        "optim.method": "galore", "optim.rank": 64, "optim.update_proj_gap": 100, "optim.learning_rate": 1e-5,
        "train.micro_batch_size": 2, "train.global_batch_size": 16, "train.num_train_epochs": 3, "data.max_length": 1024,
        "data.validation_fraction": 0.1, "eval.eval_epochs": 1, "train.gradient_checkpointing": True,
        "data.prompt_field": "instruction", "optim.target_modules": ["self_attn", "mlp"],
    },
    "axolotl": {
        "optim.method": "lora", "optim.rank": 16, "optim.lora_alpha": 32, "optim.state_dtype": "8bit",
        "train.micro_batch_size": 2, "train.global_batch_size": 8, "data.path": None, "data.source": "local",
        "data.packing": "packed", "data.loss_on": "responses", "eval.eval_epochs": 1, "log.report_to": "wandb",
        "log.wandb_project": "mine", "model.attn_implementation": "flash_attention_2", "optim.warmup_steps": 10,
    },
    "torchtune": {
        "optim.method": "full", "optim.state_dtype": "8bit", "optim.learning_rate": 2e-5, "optim.warmup_steps": 100,
        "model.name_or_path": "/tmp/Llama-3.2-1B", "train.micro_batch_size": 4, "train.global_batch_size": 32,
        "train.max_steps": 100, "data.path": "tatsu-lab/alpaca", "data.packing": "paper", "model.dtype": "bfloat16",
    },
}  # fmt: skip


@pytest.mark.parametrize("tool", TOOLS)
def test_an_example_becomes_a_recipe(tool: str, tmp_path: Path) -> None:
    out = tmp_path / "mine.yaml"
    done = CliRunner().invoke(app, ["recipes", "convert", str(FILES / f"{tool}.yaml"), "--output", str(out)])
    assert done.exit_code == 0, done.output
    recipe = load_recipe(str(out)).recipe.model_dump(mode="json")
    found = {path: recipe[path.split(".")[0]][path.split(".")[1]] for path in EXPECTED[tool]}
    assert found == EXPECTED[tool]
    assert f"a file of {tool}" in out.read_text()
    assert f"wrote{out}" in "".join(done.output.split())


@pytest.mark.parametrize("tool", TOOLS)
def test_every_line_is_told_with_its_number(tool: str) -> None:
    lines = (FILES / f"{tool}.yaml").read_text().splitlines()
    made = convert(str(FILES / f"{tool}.yaml"))
    told = [each for each in made.told if each.line]
    assert made.tool == tool
    assert len({each.key for each in told}) == len(told)
    for each in told:
        assert lines[each.line - 1].strip().startswith(f"{each.key.rpartition('.')[2]}:")
    keys = {number for number, line in enumerate(lines, start=1) if ":" in line and not line.strip().startswith("#")}
    values = yaml.safe_load("\n".join(lines))
    inside = [number for number in keys - {each.line for each in told} if lines[number - 1].startswith((" ", "-"))]
    sections = {key for key, value in values.items() if isinstance(value, dict)}
    missed = [lines[number - 1] for number in keys - {each.line for each in told} - set(inside)]
    assert {line.partition(":")[0] for line in missed} <= sections
    assert "left out" in made.text
    for each in told:
        assert f"# {each}" in made.text


def test_what_the_recipe_does_not_take_is_left_out_with_the_reason(tmp_path: Path) -> None:
    made = convert(write(tmp_path, "axolotl", learning_rate="fast", lr_scheduler="sideways"))
    told = {each.key: each for each in made.told if each.line}
    assert told["learning_rate"].fate == "left out"
    assert "does not take it: expected a number" in told["learning_rate"].why
    assert "optim.lr_scheduler_type does not take it" in told["lr_scheduler"].why
    load_recipe(write_text(tmp_path, made.text))


def test_arguments_in_one_text_are_taken_one_by_one(tmp_path: Path) -> None:
    theirs = {"optimizer": "galore_adamw", "optim_args": "rank=64, update_proj_gap=100,scale=2.0, x=1"}
    made = convert(write(tmp_path, "axolotl", ("adapter", "lora_r"), **theirs))
    found = settings(made.text)
    assert (found["optim.rank"], found["optim.update_proj_gap"], found["optim.scale"]) == (64, 100, 2.0)
    (told,) = [each for each in made.told if each.key == "optim_args.x"]
    assert told.fate == "left out"
    for value in ("rank", "rank=64,", "rank=1=2", 5):
        (told,) = [
            each for each in convert(write(tmp_path, "axolotl", optim_args=value)).told if "optim_args" in each.key
        ]
        assert told.fate == "left out"


def test_of_two_names_of_a_setting_the_first_is_taken(tmp_path: Path) -> None:
    made = convert(write(tmp_path, "llama-factory", preprocessing_num_workers=8, num_proc=2, dataloader_num_workers=4))
    told = {each.key: each for each in made.told}
    assert settings(made.text)["data.num_proc"] == 8
    assert "data.num_proc is what preprocessing_num_workers in line" in told["num_proc"].why
    assert told["dataloader_num_workers"].fate == "left out"


def test_a_default_that_the_file_takes_the_place_of_is_not_told(tmp_path: Path) -> None:
    made = convert(write(tmp_path, "axolotl", without=("adapter",), optimizer="galore_adamw"))
    assert settings(made.text)["optim.method"] == "galore"
    assert not any("optim.method: full" in each.why for each in made.told)


@pytest.mark.parametrize(
    ("keys", "rate"),
    [
        ({"adapter": None, "embedding_lr": 1e-5}, 1e-5),
        ({"adapter": None, "embedding_lr_scale": 0.5}, "0.5x"),
        ({"adapter": None, "embedding_lr_scale": 1e-7}, "1e-07x"),
        ({"adapter": None, "embedding_lr_scale": "half"}, None),
        ({"lora_modules_to_save": ["embed_tokens", "lm_head"], "embedding_lr": 1e-5}, 1e-5),
        ({"embedding_lr": 1e-5}, None),
        ({"adapter": None, "embedding_lr": "fast"}, None),
        ({"adapter": None, "embedding_lr": None}, None),
    ],
)
def test_axolotls_rate_of_embeddings_is_of_the_head_too(
    keys: dict[str, Any], rate: float | str | None, tmp_path: Path
) -> None:
    made = settings(convert(write(tmp_path, "axolotl", **keys), "axolotl").text)
    found = [made.get(f"optim.{name}_learning_rate") for name in ("embedding", "head")]
    assert found == [rate, rate]


def test_what_goes_with_a_setting_is_left_out_with_it(tmp_path: Path) -> None:
    made = convert(write(tmp_path, "torchtune", optimizer_in_bwd=True, clip_grad_norm=1.0))
    found = settings(made.text)
    assert {"optim.update", "optim.refresh"}.isdisjoint(found)
    assert found["optim.max_grad_norm"] == 1.0


@pytest.mark.parametrize(("name", "taken"), [("llama3", "llama3"), ("smollm2", None), (None, None)])
def test_a_template_of_llama_factory(name: str | None, taken: str | None, tmp_path: Path) -> None:
    made = convert(write(tmp_path, "llama-factory", template=name))
    (told,) = [each for each in made.told if each.key == "template"]
    assert settings(made.text).get("data.chat_template") == taken
    assert taken or "the tokenizer's own is taken" in told.why


def test_an_index_that_is_not_here_is_not_said_to_lack_names(tmp_path: Path) -> None:
    def told(**given: Any) -> str:
        made = convert(write(tmp_path, "llama-factory", dataset="mine", dataset_dir=str(tmp_path), **given))
        return next(each.why for each in made.told if each.key == "dataset")

    assert f"mine looked up in no {tmp_path}/dataset_info.json here" in told()
    (tmp_path / "dataset_info.json").write_text("{}")
    assert f"mine not in {tmp_path}/dataset_info.json" in told()


def test_what_is_told_is_wrapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["recipes", "convert", str(FILES / "axolotl.yaml"), "--output", "x.yaml"]
    done = CliRunner().invoke(app, arguments, env={"COLUMNS": "80"})
    assert max(map(len, done.output.splitlines())) <= 80


def test_settings_that_contradict_each_other_are_not_both_taken(tmp_path: Path) -> None:
    theirs = {"enable_activation_checkpointing": False, "enable_activation_offloading": True}
    made = convert(write(tmp_path, "torchtune", **theirs))
    (told,) = [each for each in made.told if each.key == "enable_activation_offloading"]
    assert told.fate == "left out"
    assert "moves the inputs of recomputed blocks" in told.why
    load_recipe(write_text(tmp_path, made.text))


def test_zero_is_a_number_and_defaults_are_those_of_the_toolkit(tmp_path: Path) -> None:
    made = settings(
        convert(write(tmp_path, "llama-factory", without=("warmup_ratio", "val_size"), weight_decay=0)).text
    )
    assert (made["optim.warmup_ratio"], made["optim.weight_decay"], made["optim.min_lr_ratio"]) == (0, 0, 0)
    assert made["data.validation_fraction"] == 0
    bare = settings(convert(write(tmp_path, "torchtune", without=("lr_scheduler",))).text)
    assert bare["optim.lr_scheduler_type"] == "constant"
    lora = settings(
        convert(write(tmp_path, "llama-factory", without=("use_galore", "galore_rank"), finetuning_type="lora")).text
    )
    assert lora["optim.rank"] == 8


@pytest.mark.parametrize("value", [None, [], {}, 0, -1.5, "x", [[]], [1], {"a": 1}, True, [None], "2e400"], ids=str)
@pytest.mark.parametrize("tool", TOOLS)
def test_no_value_breaks_a_rule(tool: str, value: Any, tmp_path: Path) -> None:
    theirs: dict[str, Any] = {}
    for key in TOOLS[tool].table:
        section, _, name = key.rpartition(".")
        if section:
            theirs.setdefault(section, {})[name] = copy.deepcopy(value)
        elif key not in theirs:
            theirs[key] = copy.deepcopy(value)
    assert outcome(write(tmp_path, tool, **theirs), tool, tmp_path) in ("a recipe", "no recipe")


def outcome(file: str, tool: str, folder: Path) -> str:
    try:
        load_recipe(write_text(folder, convert(file, tool).text))
    except UserError as error:
        return "no recipe" if "gives no recipe" in str(error) else str(error)
    return "a recipe"


def test_methods(tmp_path: Path) -> None:
    layerwise = {"galore_layerwise": True, "gradient_accumulation_steps": 1}
    assert settings(convert(write(tmp_path, "llama-factory", **layerwise)).text)["optim.update"] == "immediate"
    lora = convert(
        write(tmp_path, "llama-factory", without=("use_galore",), finetuning_type="lora", lora_target="q_proj, v_proj")
    )
    assert settings(lora.text)["optim.target_modules"] == ["q_proj", "v_proj"]
    full = settings(convert(write(tmp_path, "axolotl", without=("adapter",))).text)
    assert full["optim.method"] == "full"
    unclipped = settings(convert(write(tmp_path, "torchtune", without=("clip_grad_norm",))).text)
    assert unclipped["optim.max_grad_norm"] is None


@pytest.mark.parametrize(
    ("theirs", "rank", "alpha", "defaults"),
    [
        ({}, 8, 16, {"lora_rank", "lora_alpha"}),
        ({"lora_rank": 64}, 64, 128, {"lora_alpha"}),
        ({"lora_rank": 64, "lora_alpha": None}, 64, 128, set()),
        ({"lora_rank": 64, "lora_alpha": 16}, 64, 16, set()),
        ({"finetuning_type": "full"}, None, None, set()),
        ({"use_galore": True}, 16, None, {"galore_rank", "galore_scale"}),
    ],
)
def test_adapters_of_llama_factory_are_scaled_by_twice_their_rank(
    theirs: dict[str, Any], rank: int | None, alpha: float | None, defaults: set[str], tmp_path: Path
) -> None:
    without = ("use_galore", "galore_rank", "galore_target", "galore_scale", "galore_update_interval")
    made = convert(write(tmp_path, "llama-factory", without, **{"finetuning_type": "lora", **theirs}))
    found = settings(made.text)
    assert (found.get("optim.rank"), found.get("optim.lora_alpha")) == (rank, alpha)
    assert {
        each.key for each in made.told if not each.line and ("lora_" in each.key or "galore_" in each.key)
    } == defaults


def test_what_is_no_file_of_a_toolkit(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="of no toolkit"):
        convert(str(Path(__file__).parents[4] / "recipes/demo.yaml"))
    (tmp_path / "bare.yaml").write_text("base_model: x\nsequence_len: 8\n")
    with pytest.raises(UserError, match=r"gives no recipe: data"):
        convert(str(tmp_path / "bare.yaml"))
    with pytest.raises(UserError, match="cannot be read"):
        convert(str(tmp_path / "absent.yaml"))


def test_the_command_knows_every_toolkit() -> None:
    assert get_args(Toolkit) == tuple(TOOLS)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "mine.yaml"
    out.write_text("mine")
    command = ["recipes", "convert", str(FILES / "axolotl.yaml"), "--output", str(out)]
    assert CliRunner().invoke(app, command).exit_code != 0
    assert out.read_text() == "mine"
    assert CliRunner().invoke(app, [*command, "--force"]).exit_code == 0
    printed = CliRunner().invoke(app, [*command[:3], "--from", "axolotl"]).output
    assert settings(printed)["optim.method"] == "lora"


@pytest.mark.parametrize("name", ["muon", "adafactor"])
def test_rules_that_are_here_are_taken(name: str, tmp_path: Path) -> None:
    for tool, key in (("axolotl", "optimizer"), ("llama-factory", "optim")):
        without = ("adapter", "use_galore", "galore_rank", "galore_target")
        found = settings(convert(write(tmp_path, tool, without, finetuning_type="full", **{key: name})).text)
        assert (found["optim.method"], found["optim.inner"]) == ("full", name)


@pytest.mark.parametrize(
    ("theirs", "expected"),
    [
        ({"use_muon": True}, {"method": "full", "inner": "muon"}),
        (
            {"use_apollo": True},
            {"method": "galore", "residual": "apollo", "proj_type": "random", "rank": 16, "scale": 5.65685},
        ),
        (
            {"use_apollo": True, "apollo_rank": 32, "apollo_update_interval": 50, "apollo_scale": 4.0},
            {"residual": "apollo", "rank": 32, "update_proj_gap": 50, "scale": 2.0},
        ),
        (
            {"use_apollo": True, "apollo_rank": 1, "apollo_scale_type": "tensor"},
            {"residual": "apollo-mini", "rank": 1, "proj_type": "random", "scale": 0.5},
        ),
    ],
)
def test_switches_of_llama_factory(theirs: dict[str, Any], expected: dict[str, Any], tmp_path: Path) -> None:
    without = ("use_galore", "galore_rank", "galore_target", "galore_scale", "galore_update_interval")
    made = convert(write(tmp_path, "llama-factory", without, finetuning_type="full", **theirs))
    found = settings(made.text)
    assert {key: found.get(f"optim.{key}") for key in expected} == expected
    assert {each.key for each in made.told} >= theirs.keys()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (None, ("apollo", 128, 1.0)),
        ("rank=256,scale=4.0", ("apollo", 256, 2.0)),
        ("rank=1,scale_type=tensor,scale=128", ("apollo-mini", 1, 1.0)),
        ("scale=9,scale_type=channel", ("apollo", 128, 3.0)),
    ],
)
def test_apollo_of_axolotl(arguments: str | None, expected: tuple[str, int, float], tmp_path: Path) -> None:
    more = {"optim_args": arguments} if arguments else {}
    made = convert(write(tmp_path, "axolotl", without=("adapter",), optimizer="apollo_adamw", **more))
    found = settings(made.text)
    assert (found["optim.method"], found["optim.proj_type"]) == ("galore", "random")
    assert (found["optim.residual"], found["optim.rank"], found["optim.scale"]) == expected
    assert not any(each.path == "optim.scale" and each.fate == "taken" for each in made.told)
