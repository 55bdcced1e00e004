"""What people bring from other toolkits is answered: by a key that exists and takes such a value, or in words of its own.

`tools/` has fifty keys or more of each, with a value as it stands in that toolkit's own examples.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from galore.trainer.recipe.explain.apart import APART
from galore.trainer.recipe.explain.fields import fields, sections
from galore.trainer.recipe.explain.unknown import what_was_meant
from galore.trainer.recipe.load import load_recipe
from galore.trainer.recipe.parse.problems import Problem, RecipeError

TOOLS = {
    path.stem: yaml.safe_load(path.read_text()) for path in sorted((Path(__file__).parent / "tools").glob("*.yaml"))
}
KEYS = [(tool, key, value) for tool, keys in TOOLS.items() for key, value in keys.items()]
LISTS = ("the sections are", "the keys of")  # what is said where nothing is known
NAMED = re.compile(rf"\b({'|'.join(sections())})\.(\w+)")
CALLED = re.compile(
    r"in section `(\w+)` it is called `(\w+)`|here it is called `(\w+)`|`(\w+)` belongs in section `(\w+)`"
)
WRITTEN = re.compile(r"in section `(\w+)` write `?(\w+): ([^`]+?)`?$")


def problems(folder: Path, key: str, value: Any) -> list[Problem]:
    """What is said of a recipe that has `key` where the other toolkit has it."""
    for part in reversed(key.split(".")):
        value = {part: value}
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump({"extends": "demo", **value}))
    try:
        load_recipe(str(file))
    except RecipeError as error:
        return error.problems
    return []


def targets(said: Problem) -> list[str]:
    """The key that an answer says takes the place of what was written."""
    found = CALLED.search(said.fix)
    if not found:
        return []
    section, name, here, belonging, where = found.groups()
    return [f"{section or where or said.key.split('.')[0]}.{name or here or belonging}"]


def refused(path: str, written: str) -> Problem | None:
    """What is said of the kind of a value."""
    try:
        load_recipe("demo", [f"{path}={written}"])
    except RecipeError as error:
        return next((each for each in error.problems if each.key == path and each.what.startswith("expected")), None)
    return None


def takes(path: str, value: Any) -> bool:
    """Whether the value is taken, or the answer to it is a value that is."""
    said = refused(path, json.dumps(value)) if value is not None else None
    instead = re.fullmatch(r"write (.+?)( \(.*\))?", said.fix) if said else None
    return said is None or (instead is not None and refused(path, instead[1]) is None)


@pytest.mark.parametrize(("tool", "key", "value"), KEYS, ids=[f"{tool}: {key}" for tool, key, _ in KEYS])
def test_a_key_is_answered(tool: str, key: str, value: Any, tmp_path: Path) -> None:
    for said in problems(tmp_path, key, value):
        if said.what == "unknown section":
            assert not said.fix.startswith(LISTS)
            continue
        assert said.fix
        assert not said.fix.startswith(LISTS)
        assert {f"{section}.{name}" for section, name in NAMED.findall(said.fix)} <= set(fields())
        for path in targets(said):
            assert path in fields()
            assert "which takes" in said.fix or takes(path, value)
        if written := WRITTEN.search(said.fix):
            for line in re.split(r"(?: and |, )(?=\w+: )", f"{written[2]}: {written[3]}"):
                name, _, text = line.partition(": ")
                assert refused(f"{written[1]}.{name}", text) is None


def test_there_are_fifty_of_each() -> None:
    assert len(TOOLS) == 5
    assert min(len(keys) for keys in TOOLS.values()) >= 50


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("evals_per_epoch", 4, "eval.eval_epochs"),
        ("saves_per_epoch", 1, "steps of an epoch"),
        ("max_samples", 100, "all rows"),
        ("min_lr", 6e-5, "share of the peak"),
        ("eval_iters", 200, "in tokens"),
        ("use_rslora", True, "plain one"),
        ("bf16", True, "write `dtype: bfloat16`"),
        ("bf16", False, "which takes one of float32"),
        ("relora", True, "which takes an integer"),
        ("datasets", [{"path": "x"}], "which takes text or a list"),
        ("gradient_checkpointing_kwargs", {"use_reentrant": False}, "torch's own way"),
        ("tokenizer", {"path": "x"}, "it is called `tokenizer`"),
        ("warmdown_ratio", 0.4, "it is called `lr_decay_ratio`"),
        ("load_best_model_at_end", True, "it is called `save_best`"),
        ("resize_vocab", True, "in model.new_tokens"),
        ("resize_token_embeddings_to_32x", True, "model.vocab_size says"),
        ("interleave_probs", "0.7,0.3", "data.sources mixes several sets, each with a weight"),
        ("mix_strategy", "concat", "data.sources mixes several sets, each with a weight"),
        ("optimizer.fused", True, "torch's fused or foreach ways"),
        ("max_time", 3600, "train.early_stopping_patience ends a run"),
    ],
)
def test_units_and_kinds_are_minded(key: str, value: Any, said: str, tmp_path: Path) -> None:
    (found,) = [each for each in problems(tmp_path, key, value) if each.what != "unknown section"]
    assert said in found.fix


def test_a_name_of_one_section_means_nothing_in_another() -> None:
    assert what_was_meant("interval", "eval").target == "eval.eval_steps"
    assert what_was_meant("max_iters", "eval").hint.startswith("eval.max_tokens")
    assert what_was_meant("max_iters", "train").target == "train.max_steps"


@pytest.mark.parametrize("slip", ["evals_per_epohc", "neftune_noise_alhpa"])
def test_a_slip_in_a_foreign_name_is_seen(slip: str) -> None:
    assert what_was_meant(slip, "train").hint in APART


@pytest.mark.parametrize("name", ["use_relora", "eval_table_tokens", "pack_strategy"])
def test_nearly_the_same_is_another_name(name: str) -> None:
    """What was guessed for them once: optim.method: galore, eval.micro_batch_size, an interval."""
    meant = what_was_meant(name, "")
    assert meant.target not in ("optim.method", "eval.micro_batch_size")


def test_optim_with_the_name_of_an_optimizer(tmp_path: Path) -> None:
    (known,) = problems(tmp_path, "optim", "adamw_bnb_8bit")
    (other,) = problems(tmp_path, "optim", "lion_32bit")
    assert "write method: full and state_dtype: 8bit below `optim:`" in known.fix
    assert "write method: galore below `optim:`" in other.fix
