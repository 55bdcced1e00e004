"""What axolotl's keys and silent defaults become."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from toolkit_files import settings, write

from galore.trainer.recipe.convert.convert import convert


@pytest.mark.parametrize(
    ("theirs", "ratio", "steps", "why"),
    [
        ({}, 0.03, None, "optim.warmup_ratio: 0.03 (3 % of the steps, there at most 100)"),
        ({"warmup_ratio": None}, 0.03, None, "optim.warmup_ratio: 0.03 (3 % of the steps, there at most 100)"),
        ({"warmup_steps": None}, 0.03, None, "optim.warmup_ratio: 0.03 (3 % of the steps, there at most 100)"),
        ({"warmup_ratio": 0}, 0, None, "optim.warmup_ratio: 0"),
        ({"warmup_ratio": 0.2}, 0.2, None, "optim.warmup_ratio: 0.2"),
        ({"warmup_ratio": None, "warmup_steps": 5}, None, 5, "warmup_steps counts"),
        ({"warmup_steps": 0}, None, 0, None),
    ],
)
def test_warm_up_is_three_percent_unless_it_is_said(
    theirs: dict[str, Any], ratio: float | None, steps: int | None, why: str | None, tmp_path: Path
) -> None:
    made = convert(write(tmp_path, "axolotl", ("warmup_steps",), **theirs))
    found = settings(made.text)
    assert (found.get("optim.warmup_ratio"), found.get("optim.warmup_steps")) == (ratio, steps)
    assert next((each.why for each in made.told if each.key == "warmup_ratio"), None) == why


SET = {"path": "me/x", "type": "chat_template", "field_messages": "talk"}


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("shards", 10, "all rows are trained on"),
        ("shards_idx", 3, "all rows are trained on"),
        ("revision", "v1", "the newest revision"),
        ("roles_to_train", ["system", "user"], "what the assistant says"),
        ("train_on_eos", "all", "what ends its turns"),
        ("message_property_mappings", {"role": "who"}, "role and content, or from and value"),
        ("message_field_training", "learn", "train: false"),
        ("field_system", "sys", "it is not written"),
        ("chat_template", "chatml", "one for all data sets"),
        ("unheard_of", 5, "nothing here takes its place"),
        ("drop_system_message", False, "it is off"),
    ],
)
@pytest.mark.parametrize("before", [0, 1])
def test_what_is_not_read_of_a_data_set_is_told(key: str, value: Any, why: str, before: int, tmp_path: Path) -> None:
    sets = [SET] * before + [SET | {"split": "test", key: value}]
    file = write(tmp_path, "axolotl", datasets=[dict(each) for each in sets])
    (told,) = [each for each in convert(file).told if each.key.startswith("datasets[")]
    assert (told.key, told.value, told.fate) == (f"datasets[{before}].{key}", value, "left out")
    assert why in told.why
    assert Path(file).read_text().splitlines()[told.line - 1].strip().startswith(f"{key}:")


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (
            {"path": "me/x", "type": {"field_instruction": "q", "field_output": "a", "format": "[INST]"}},
            ["type.format"],
        ),
        ({"path": "me/x", "type": {"field_instruction": "q", "field_output": "a"}}, []),
        ({"path": "me/x", "type": "alpaca_chat.load_qa"}, ["type"]),
        ({"path": "me/x", "type": "alpaca", "split": "test", "name": "en"}, []),
        ({"path": "x.jsonl", "split": "test"}, ["split"]),
        ({"path": "json", "data_files": "x.jsonl", "ds_type": "json", "type": "completion", "field": "body"}, []),
    ],
)
def test_what_is_read_of_a_data_set_is_not_told_as_left_out(
    entry: dict[str, Any], expected: list[str], tmp_path: Path
) -> None:
    made = convert(write(tmp_path, "axolotl", datasets=[entry]))
    assert [each.key for each in made.told if each.key.startswith("datasets[")] == [
        f"datasets[0].{e}" for e in expected
    ]
