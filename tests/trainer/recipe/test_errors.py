"""Every error of a recipe at once, each at its line, with what to write instead."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from galore.trainer.common.errors import UserError
from galore.trainer.recipe.load import load_recipe
from galore.trainer.recipe.parse.problems import MOST_TOLD, RecipeError

SMALL = "data: {source: packaged}\ntrain: {max_steps: 10}\n"


def problems(tmp_path: Path, text: str, *overrides: str) -> list[str]:
    """The messages of a wrong recipe, one string each, without the folder."""
    file = tmp_path / "r.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError) as error:
        load_recipe(str(file), overrides)
    assert error.value.exit_code == 2
    assert isinstance(error.value, UserError)
    return [str(each).replace(f"{tmp_path}/", "").replace("\n    → ", " → ") for each in error.value.problems]


def test_all_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = """\
lr: 3
optim:
  rank: abc
  learning_rate: 1
  learning_rate: 2
data:
  source: packaged
  max_lenght: 64
model:
  hidden_size: 100
train:
  max_steps: 0
  gradient_accumulation_steps: 8
"""
    assert problems(tmp_path, text, "train.seed=-1", "optim.rnk=4") == [
        "r.yaml:1:1: lr: unknown key → in section `optim` it is called `learning_rate`",
        "r.yaml:3:3: optim.rank: expected an integer > 0 or a number > 0 and < 1, got 'abc'",
        "r.yaml:5:3: optim.learning_rate: written twice, first in line 4 → remove one of the two",
        "r.yaml:8:3: data.max_lenght: unknown key → here it is called `max_length`",
        "r.yaml:10:3: model: hidden_size 100 is not a multiple of num_attention_heads 8",
        "r.yaml:12:3: train.max_steps: expected an integer > 0 or null, got 0",
        "r.yaml:13:3: train.gradient_accumulation_steps: unknown key → "
        "accumulation is train.global_batch_size / train.micro_batch_size: set global_batch_size to their product",
        "override `optim.rnk=4`: there is no key `optim.rnk` → write optim.rank=4",
        "override `train.seed=-1`: train.seed: expected an integer ≥ 0, got -1",
    ]


def test_message_is_one_text(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(SMALL + "lr: 1")
    with pytest.raises(RecipeError) as error:
        load_recipe(str(tmp_path / "r.yaml"))
    name = tmp_path / "r.yaml"
    assert str(error.value) == (
        f"{name}: 1 error\n  {name}:3:1: lr: unknown key\n    → in section `optim` it is called `learning_rate`"
    )


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("optim: {rank: true}", "r.yaml:3:9: optim.rank: expected an integer > 0 or a number > 0 and < 1, got true"),
        ("optim: {rank: 1.5}", "r.yaml:3:9: optim.rank: expected an integer > 0 or a number > 0 and < 1, got 1.5"),
        ("optim: {rank: }", "r.yaml:3:9: optim.rank: expected an integer > 0 or a number > 0 and < 1, got nothing"),
        ("optim: {rank: null}", "r.yaml:3:9: optim.rank: expected an integer > 0 or a number > 0 and < 1, got null"),
        ("optim: {rank: [1]}", "r.yaml:3:9: optim.rank: expected an integer > 0 or a number > 0 and < 1, got [1]"),
        (
            "optim: {scale: .inf}",
            "r.yaml:3:9: optim.scale: expected a number ≥ 1.17549e-38 and ≤ 3.40282e+38 or null, got .inf",
        ),
        ("optim: {learning_rate: inf}", "r.yaml:3:9: optim.learning_rate: expected a number > 0, got 'inf'"),
        ("optim: {learning_rate: nan}", "r.yaml:3:9: optim.learning_rate: expected a number > 0, got 'nan'"),
        ("optim: {adam_beta1: 1}", "r.yaml:3:9: optim.adam_beta1: expected a number ≥ 0 and < 1, got 1"),
        ("optim: {warmup_ratio: 2}", "r.yaml:3:9: optim.warmup_ratio: expected a number ≥ 0 and ≤ 1, got 2"),
        ("optim: {stagger: maybe}", "r.yaml:3:9: optim.stagger: expected true or false, got 'maybe'"),
        (
            "optim: {method: galor}",
            "r.yaml:3:9: optim.method: expected one of galore, lora, full, got 'galor' → write galore",
        ),
        (
            "optim: {method: galore_adamw_8bit}",
            "r.yaml:3:9: optim.method: expected one of galore, lora, full, got 'galore_adamw_8bit'"
            " → write method: galore and state_dtype: 8bit",
        ),
        (
            "optim: {target_modules: mlp}",
            "r.yaml:3:9: optim.target_modules: expected a list such as [a, b], got 'mlp' → write [mlp]",
        ),
        (
            "optim: {target_modules: [1, {a: 2}]}",
            'r.yaml:3:9: optim.target_modules: expected a list such as [a, b], got [1, {"a": 2}]',
        ),
        (
            "model: {dtype: bf16}",
            "r.yaml:3:9: model.dtype: expected one of float32, bfloat16, got 'bf16' → write bfloat16",
        ),
        (
            "model: {architecture: RetNet}",
            "r.yaml:3:9: model.architecture: expected one of llama, retnet, got 'RetNet' → write retnet",
        ),
        (
            "model: {architecture: retnet, rope: {type: yarn, factor: 2}}",
            "r.yaml:3:31: model: rope scales the positions of attention, and retention counts none: leave rope out",
        ),
        (
            "model: {architecture: retnet, num_key_value_heads: 4}",
            "r.yaml:3:31: model: heads of retention share no keys and values: leave num_key_value_heads out",
        ),
        (
            "model: {architecture: retnet, hidden_size: 24}",
            "r.yaml:3:31: model: hidden_size 24 over num_attention_heads 8 is odd: retention turns pairs of channels",
        ),
        (
            "model: {hidden_size: 27, num_attention_heads: 3}",
            "r.yaml:3:9: model: hidden_size 27 over num_attention_heads 3 is odd: rotary positions turn pairs of channels",
        ),
        (
            "model: {architecture: retnet, attn_implementation: flash_attention_2}",
            "r.yaml:3:31: model: retnet has no attention: leave attn_implementation out",
        ),
        (
            "log: {report_to: null}",
            "r.yaml:3:7: log.report_to: expected none or one of wandb, tensorboard, trackio, mlflow or a list such as [a, b], got null → write none",
        ),
        (f"eval: {{mode: {'x' * 99}}}", f"r.yaml:3:8: eval.mode: expected one of token, paper, got '{'x' * 58}…"),
    ],
)
def test_values(tmp_path: Path, line: str, expected: str) -> None:
    assert problems(tmp_path, SMALL + line) == [expected]


@pytest.mark.parametrize("text", [r'"a\0b"', r'"a\ud800b"', r'["a\0b"]'])
@pytest.mark.parametrize("path", ["model.name_or_path", "data.path", "log.run_name", "eval.sample_prompt"])
def test_what_no_file_can_hold(tmp_path: Path, path: str, text: str) -> None:
    found = problems(tmp_path, SMALL, f"{path}={text}")
    place = f"{path}[0]" if text.startswith("[") else path
    assert f"{place}: contains a NUL byte, or half of a character → write it without" in found[0]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("learning_rate: 1", "`learning_rate` belongs in section `optim`"),
        ("micro_batch_size: 1", "`micro_batch_size` belongs in section `train` or `eval`"),
        ("train.seed: 1", "write `train:`, and `seed:` indented below it"),
        ("model: {learning_rate: 1}", "`learning_rate` belongs in section `optim`"),
        ("optim: {learningRate: 1}", "here it is called `learning_rate`"),
        ("optim: {update_proj_gpa: 1}", "here it is called `update_proj_gap`"),
        ("data: {source: packaged, cutof_len: 1}", "here it is called `max_length`"),  # a misspelt foreign name
        ("model: {bf16: true}", "in section `model` write `dtype: bfloat16`"),
        ("bf16: true", "in section `model` write `dtype: bfloat16`"),
        ("optimizer: galore_adamw", "in section `optim` write method: galore"),
        ("output_dir: x", "it is given on the command line: galore train RECIPE --output-dir DIR"),
        (
            "log: {zzzzzz: 1}",
            "the keys of `log` are logging_steps, report_to, wandb_project, wandb_mode, run_name, profile_steps",
        ),
        ("zzzzzz: 1", "the sections are model, data, optim, train, extra_loss, parallel, eval, log"),
        ("zzzzzz: {a: 1}", "the sections are model, data, optim, train, extra_loss, parallel, eval, log"),
    ],
)
def test_unknown_keys(tmp_path: Path, line: str, expected: str) -> None:
    text = line + "\n" + SMALL.removeprefix("data: {source: packaged}\n" if line.startswith("data") else "")
    assert [each.partition(" → ")[2] for each in problems(tmp_path, text)] == [expected]


def test_section_by_another_name_is_read_all_the_same(tmp_path: Path) -> None:
    text = "dataset: {source: packaged}\ntraining: {max_steps: x, seed: 1}\noptmi: {rank: 0}"
    assert problems(tmp_path, text) == [
        "r.yaml:1:1: dataset: unknown section → it is called `data`",
        "r.yaml:2:1: training: unknown section → it is called `train`",
        "r.yaml:2:12: train.max_steps: expected an integer > 0 or null, got 'x'",
        "r.yaml:3:1: optmi: unknown section → it is called `optim`",
        "r.yaml:3:9: optim.rank: expected an integer > 0 or a number > 0 and < 1, got 0",
    ]


def test_section_with_a_value(tmp_path: Path) -> None:
    assert problems(tmp_path, SMALL + "optim: galore_adamw\nmodel: [1]") == [
        "r.yaml:3:1: optim: is a section, it cannot have a value of its own"
        " → write method: galore below `optim:`, indented by two spaces",
        "r.yaml:4:1: model: is a section, it cannot have a value of its own"
        " → write name_or_path: … below `model:`, indented by two spaces",
    ]


def test_missing_sections(tmp_path: Path) -> None:
    assert problems(tmp_path, "log: {}") == [
        "r.yaml:1:1: data: this section is missing"
        " → add `data:` with `source: packaged`, or with `source: local` and `path:`",
        "r.yaml:1:1: train: this section is missing → add `train:` with `max_steps:` or `num_train_epochs:`",
    ]


def test_what_was_given_wrongly_is_not_called_missing(tmp_path: Path) -> None:
    assert problems(tmp_path, "data: {source: packaged}\ntrain: {num_training_steps: 10}") == [
        "r.yaml:2:9: train.num_training_steps: unknown key → here it is called `max_steps`"
    ]
    assert problems(tmp_path, "data: {source: packaged}\ntrain: {max_steps:10}") == [
        "r.yaml:2:9: train.max_steps:10: unknown key → a space belongs after the colon: `max_steps: 10`"
    ]
    assert problems(tmp_path, "data: {source: packaged}\ntrain: {max_steps: many}") == [
        "r.yaml:2:9: train.max_steps: expected an integer > 0 or null, got 'many'"
    ]


def test_fields_that_do_not_agree(tmp_path: Path) -> None:
    text = "data: {source: packaged}\ntrain:\n  max_steps: 1\n  micro_batch_size: 5\noptim:\n  update: immediate\n  rank: 0"
    found = problems(tmp_path, text)
    assert found[0] == (
        "r.yaml:4:3: train: global_batch_size 512 is not a multiple of micro_batch_size 5: write micro_batch_size: 4"
    )
    assert found[1].startswith("r.yaml:6:3: optim: update: immediate steps before all gradients exist")
    assert found[2] == "r.yaml:7:3: optim.rank: expected an integer > 0 or a number > 0 and < 1, got 0"
    assert len(found) == 3


def test_disagreement_between_sections_and_with_an_override(tmp_path: Path) -> None:
    found = problems(tmp_path, SMALL + "model: {max_position_embeddings: 64}")
    assert found == ["r.yaml:3:9: data.max_length 256 exceeds model.max_position_embeddings 64"]
    found = problems(tmp_path, SMALL, "train.micro_batch_size=5")
    assert found == [
        "override `train.micro_batch_size=5`: train: global_batch_size 512 is not a multiple of micro_batch_size 5: "
        "write train.micro_batch_size=4"
    ]


@pytest.mark.parametrize(
    ("text", "override", "end"),
    [
        ("train: {max_steps: 1, global_batch_size: 16}", "train.micro_batch_size=3", "write train.micro_batch_size=2"),
        (
            "train: {max_steps: 1, micro_batch_size: 16, global_batch_size: 16}",
            "train.global_batch_size=9",
            "write train.micro_batch_size=9",
        ),
        ("optim: {weight_dtype: int8}", "optim.method=full", "write optim.weight_dtype=null, or optim.method=galore"),
        ("optim: {method: full}", "optim.weight_dtype=int8", "write optim.weight_dtype=null, or optim.method=galore"),
        ("optim: {method: full}", "data.task=rte", "run `galore finetune-glue --task rte`, or leave it out"),
        ("optim: {method: full}", "data.max_train_samples=9", "leave it out"),
    ],
)
def test_an_override_that_disagrees_with_the_file_is_what_is_blamed(
    tmp_path: Path, text: str, override: str, end: str
) -> None:
    rest = "".join(line + "\n" for line in SMALL.splitlines() if line.partition(":")[0] != text.partition(":")[0])
    (found,) = problems(tmp_path, rest + text, override)
    assert found.startswith(f"override `{override}`: ")
    assert found.endswith(f": {end}")


@pytest.mark.parametrize("written", ["{mlp:0.5,self_attn:4}", "{mlp:0.5, self_attn: 4}", "mlp:0.5,self_attn:4"])
def test_a_colon_without_a_space_after_it(tmp_path: Path, written: str) -> None:
    (found,) = problems(tmp_path, SMALL, f"optim.rank_pattern={written}")
    assert found.startswith(f"override `optim.rank_pattern={written}`: optim.rank_pattern: expected a mapping")
    remedy = found.partition(" → ")[2].replace(",self", ", self")
    assert remedy == "write {mlp: 0.5, self_attn: 4}, with a space after the colon, and in quotes on a command line"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("optim.rank", "is not of the form section.key=value → for example optim.rank=256"),
        ("optim.scale=", "has no value → write optim.scale=null for an empty value"),
        ("optim.rank=", "has no value → it takes an integer > 0 or a number > 0 and < 1"),
        ("lr=1", "there is no key `lr` → write optim.learning_rate=1"),
        ("train.lr=1", "there is no key `train.lr` → write optim.learning_rate=1"),
        ("optim.rank.x=1", "there is no key `optim.rank.x` → the keys of `optim` are method, "),
        ("extends=demo", "`extends` belongs in a file → name the other recipe on the command line instead"),
        ("optim.rank=[1", "this is not valid YAML: expected ',' or ']'"),
        ("optim.rank={a: 1}", "optim.rank: expected an integer > 0 or a number > 0 and < 1, got {a: 1}"),
        (
            "optim.rank=!!python/name:os.system x",
            "optim.rank: the tag tag:yaml.org,2002:python/name:os.system is not used",
        ),
    ],
)
def test_overrides(tmp_path: Path, override: str, expected: str) -> None:
    assert problems(tmp_path, SMALL, override)[0].startswith(f"override `{override}`: {expected}")


def test_errors_of_the_parent_are_reported_too(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(SMALL + "optim:\n  lr: 1\n  rank: -1\n")
    text = "extends: base.yaml\nmodel: {hidden: 1}\n"
    found = problems(tmp_path, text)
    assert [each.split(": ")[0] for each in found] == ["r.yaml:2:9", "base.yaml:4:3", "base.yaml:5:3"]
    assert problems(tmp_path, text + "optim: {rank: 4}")[-1].startswith("base.yaml:4:3: optim.lr")  # -1 is overruled


FLOODS = {
    "unknown keys": "optim:\n" + "".join(f"  key{i:04d}x: 1\n" for i in range(500)),
    "many unknown keys": "optim:\n" + "".join(f"  k{i}: 1\n" for i in range(9000)),
    "999 kB of unknown keys": "optim:\n" + "".join(f"  k{i}: 1\n" for i in range(90_000)),
    "unknown sections": "".join(f"k{i}: {{a: 1}}\n" for i in range(9000)),
    "the same key": "optim:\n" + "  rank: 1\n" * 9000,
    "unknown tasks": "tasks:\n" + "".join(f"  k{i}: 1\n" for i in range(9000)),
    "unknown settings of a task": "tasks:\n  cola:\n" + "".join(f"    optim.k{i}: 1\n" for i in range(9000)),
    "a mapping": SMALL + "optim:\n  rank_pattern: {" + ",".join(f"k{i}: x" for i in range(9000)) + "}\n",
    "a list": SMALL + "optim:\n  target_modules: [" + ",".join(f"{{k{i}: x}}" for i in range(9000)) + "]\n",
    "a key": "optim:\n  " + "a" * 900_000 + ": 1\n",
    "a value": "optim: {rank: " + "a" * 900_000 + "}\n",
    "values in one line": "optim: {rank: [" + "1," * 400_000 + "]}\n",
}


@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_of_mistakes_takes_seconds_and_a_screen(tmp_path: Path, flood: str) -> None:
    (tmp_path / "r.yaml").write_text(FLOODS[flood])
    begun = time.process_time()
    with pytest.raises(RecipeError) as error:
        load_recipe(str(tmp_path / "r.yaml"))
    assert time.process_time() - begun < (1 if flood == "unknown keys" else 3)
    assert len(str(error.value)) < 10_000
    assert str(error.value).count("\n") <= 2 * MOST_TOLD + 1


def test_what_is_not_told_is_counted(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(FLOODS["unknown keys"])
    with pytest.raises(RecipeError) as error:
        load_recipe(str(tmp_path / "r.yaml"))
    told = str(error.value).splitlines()
    assert told[0].endswith(": 502 errors")  # and two sections are missing
    assert told[-1] == "  … and 482 more"
    assert str(error.value).count("the keys of `optim` are") == 1


def test_a_flood_of_overrides(tmp_path: Path) -> None:
    begun = time.process_time()
    with pytest.raises(RecipeError) as error:
        load_recipe("demo", [f"optim.k{i}=1" for i in range(20_000)])
    assert time.process_time() - begun < 3
    assert len(str(error.value)) < 10_000


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("train.max_steps=10k", "write 10000"),
        ("train.max_steps=1.5K", "write 1500"),
        ("train.max_steps=10,000", "write 10000"),
        ("train.max_steps=2m", "write 2000000"),
        ("train.max_steps=1.0005k", ""),
        ("train.max_steps=many", ""),
        ("optim.learning_rate=1m", ""),
    ],
)
def test_a_number_with_a_suffix_is_told_written_out(override: str, told: str) -> None:
    with pytest.raises(RecipeError) as error:
        load_recipe("demo", [override])
    assert [problem.fix for problem in error.value.problems] == [told]


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("data.path=x.txt", "write data.source=local, or data.path=null"),
        ("data.source=local", "data.source=local needs `data.path`"),
        ("optim.update=immediate", "set optim.max_grad_norm=null, or optim.update=accumulate"),
        ("optim.residual=fira", "optim.residual=fira exists for optim.method=galore only"),
    ],
)
def test_a_contradiction_of_an_override_is_told_as_overrides(override: str, told: str) -> None:
    with pytest.raises(RecipeError) as error:
        load_recipe("demo", [override] + (["optim.method=full"] if "fira" in override else []))
    (problem,) = error.value.problems
    assert told in problem.what
    assert not re.search(r"\b(source|path|method|update|residual): ", problem.what)


def test_a_contradiction_of_a_file_is_told_in_yaml(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, "data: {source: packaged, path: x.txt}\ntrain: {max_steps: 1}\n")
    assert "write source: local, or path: null" in found
