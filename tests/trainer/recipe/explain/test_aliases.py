"""The tables of foreign names lead to fields that exist, and hide none."""

from __future__ import annotations

from typing import Any

import pytest

from galore.trainer.common.suggest import plain
from galore.trainer.recipe.explain.aliases import ADVICE, FIELDS, OPTIMIZERS, SECTIONS, VALUES, inverse
from galore.trainer.recipe.explain.apart import APART
from galore.trainer.recipe.explain.fields import fields, sections, sections_with
from galore.trainer.recipe.explain.unknown import ALIASES, what_was_meant
from galore.trainer.recipe.load import load_recipe


def test_targets_exist() -> None:
    assert {target.partition(": ")[0] for target in FIELDS} <= set(fields())
    assert set(VALUES) <= set(fields())
    assert set(SECTIONS) <= set(sections())


def test_written_values_are_valid() -> None:
    """What the tables tell people to write must load."""
    lines = [target for target in FIELDS if ": " in target]
    lines += [f"optim.{line}" for text in OPTIMIZERS.values() for line in text.replace(" and ", ", ").split(", ")]
    lines += [f"{path}: {value.partition(' (')[0]}" for path, values in VALUES.items() for value in values]
    more = ["optim.max_grad_norm=null", "optim.refresh=first-micro-batch", "train.micro_batch_size=16"]
    for line in lines:
        needs = more if "immediate" in line else ["optim.inner=sumo"] if "4bit" in line else []
        path = ["data.path=x"] if line.startswith("data.source") and "packaged" not in line else []
        load_recipe("demo", [line.replace(": ", "=", 1), *needs, *path])


def test_no_name_is_one_of_ours_and_none_is_written_twice() -> None:
    names = [name for table in (FIELDS, ADVICE, APART) for names in table.values() for name in names.split()]
    assert {name for name in names if sections_with(name)} <= {"name", "architecture", "fused"}, (
        "keys of others in other sections"
    )
    assert len({plain(name) for name in names}) == len(names) == len(ALIASES)
    assert len(inverse(SECTIONS)) == sum(len(names.split()) for names in SECTIONS.values())


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("lr", "optim.learning_rate"),
        ("per_device_train_batch_size", "train.micro_batch_size"),
        ("num_training_steps", "train.max_steps"),
        ("galore_scale", "optim.scale"),
        ("cutoff_len", "data.max_length"),
        ("seq_len", "data.max_length"),
        ("torch_dtype", "model.dtype"),
        ("lora_r", "optim.rank"),
        ("warmup", "optim.warmup_steps"),
        ("clip_grad_norm", "optim.max_grad_norm"),
        ("base_model", "model.name_or_path"),
        ("galore_update_interval", "optim.update_proj_gap"),
        ("eval_every", "eval.eval_steps"),
        ("total_batch_size", "train.global_batch_size"),
        ("optim_target_modules", "optim.target_modules"),
        ("r", "optim.rank"),
    ],
)
def test_names_of_other_toolkits(name: str, target: str) -> None:
    assert what_was_meant(name, "train").target == target


@pytest.mark.parametrize(
    ("name", "section", "value", "expected"),
    [
        ("name", "optim", "adamw", "in section `optim` write method: full"),
        ("type", "optim", "AdamW", "in section `optim` write method: full"),
        ("_target_", "optim", "torch.optim.AdamW", "in section `optim` write method: full"),
        ("name", "optim", "adamw_8bit", "in section `optim` write method: full and state_dtype: 8bit"),
        ("name", "optim", "lion", ""),
        ("params", "optim", {"lr": 1}, "write the keys themselves below `optim:`"),
        ("name", "data", "wikitext", "a data set of the hub is data.path, with data.source: hub"),
        ("total_batch_size", "train", 524288, "write train.global_batch_size = tokens / data.max_length"),
        ("total_batch_size", "", 1 << 15, "write train.global_batch_size = tokens / data.max_length"),
        ("total_batch_size", "train", 512, ""),
    ],
)
def test_what_a_name_means_goes_by_its_section_and_its_value(
    name: str, section: str, value: Any, expected: str
) -> None:
    found = what_was_meant(name, section, value)
    assert found.hint.startswith(expected)
    assert bool(found.hint) is bool(expected)
    assert found.target != "log.run_name"
    assert what_was_meant("name", "model").target == what_was_meant("path", "model").target == "model.name_or_path"


def test_short_nonsense_means_nothing() -> None:
    assert what_was_meant("x", "optim").target == ""
