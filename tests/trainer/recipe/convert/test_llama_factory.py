"""What LLaMA-Factory's keys, and its index of data sets, become."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from toolkit_files import settings, write

from galore.trainer.common.errors import UserError
from galore.trainer.recipe.convert.convert import Converted, convert


def made(folder: Path, entry: dict[str, Any], **theirs: Any) -> Converted:
    """The example with one data set, as the index has it."""
    (folder / "dataset_info.json").write_text(json.dumps({"x": entry}))
    return convert(write(folder, "llama-factory", **{"dataset": "x", "dataset_dir": str(folder), **theirs}))


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"num_samples": 100}, {"num_samples": "all rows are trained on"}),
        ({"ranking": True}, {"ranking": "preferences"}),
        ({"columns": {"prompt": "q", "query": "c", "response": "a"}}, {}),
        (
            {"columns": {"prompt": "q", "system": "s", "history": "h"}},
            {"columns.system": "it is not written", "columns.history": "turns before the last are not read"},
        ),
        (
            {"formatting": "sharegpt", "columns": {"messages": "m", "chosen": "c"}, "tags": {"role_tag": "who"}},
            {"tags": "messages have role and content", "columns.chosen": "preferences"},
        ),
        (
            {"hf_hub_url": "me/x", "ms_hub_url": "AI/x", "split": "test", "subset": "en"},
            {"ms_hub_url": "hf_hub_url is"},
        ),
        ({"hf_hub_url": "me/x", "folder": "zz", "revision": "v1"}, {"folder": "all folders", "revision": "the newest"}),
        ({"unheard_of": 1}, {"unheard_of": "nothing here takes its place"}),
    ],
)
def test_what_is_not_read_of_a_data_set_is_told(
    entry: dict[str, Any], expected: dict[str, str], tmp_path: Path
) -> None:
    converted = made(tmp_path, {"file_name": "x.json", **entry} if "hf_hub_url" not in entry else entry)
    told = {each.key.removeprefix("dataset.x."): each for each in converted.told if each.key.startswith("dataset.x.")}
    assert told.keys() == expected.keys()
    (named,) = [each for each in converted.told if each.key == "dataset"]
    for key, why in expected.items():
        assert (told[key].fate, told[key].line) == ("left out", named.line)
        assert why in told[key].why


@pytest.mark.parametrize("entry", [{"ms_hub_url": "AI/only"}, {"script_url": "only", "file_name": "x.json"}])
def test_data_sets_from_elsewhere_are_refused_by_name(entry: dict[str, Any], tmp_path: Path) -> None:
    (key, *_), (value, *_) = entry, entry.values()
    with pytest.raises(UserError, match=rf"dataset: gives no recipe: x is a .*\({key}: {value}\), which is not read"):
        made(tmp_path, entry)


@pytest.mark.parametrize(
    ("theirs", "rounding"),
    [
        ({"finetuning_type": "full"}, "compensated"),
        ({"finetuning_type": "full", "bf16": False, "fp16": True}, "compensated"),
        ({"finetuning_type": "full", "pure_bf16": False}, "compensated"),
        ({"finetuning_type": "full", "pure_bf16": True}, None),
        ({"finetuning_type": "full", "use_badam": True}, None),
        ({"finetuning_type": "full", "optim": "adamw_8bit", "use_muon": True}, "compensated"),
        (
            {"finetuning_type": "full", "use_galore": True, "galore_layerwise": True, "gradient_accumulation_steps": 1},
            "compensated",
        ),
        ({"finetuning_type": "full", "use_apollo": True}, "compensated"),
        ({"finetuning_type": "freeze"}, "compensated"),
        ({"finetuning_type": "lora"}, None),
        ({"finetuning_type": "lora", "pure_bf16": False}, None),
    ],
)
def test_trained_weights_are_float32_unless_the_file_says_otherwise(
    theirs: dict[str, Any], rounding: str | None, tmp_path: Path
) -> None:
    without = ("use_galore", "galore_rank", "galore_target", "galore_scale", "galore_update_interval")
    converted = convert(write(tmp_path, "llama-factory", without, **{"bf16": True, **theirs}))
    found = settings(converted.text)
    assert found.get("optim.weight_rounding") == rounding
    assert found["model.dtype"] == "bfloat16"
    told = [each for each in converted.told if each.path == "optim.weight_rounding"]
    assert [each.fate for each in told] == ["changed"] * (rounding is not None)
    assert all("trained weights are float32" in each.why for each in told)


@pytest.mark.parametrize(
    ("tool", "theirs"),
    [("axolotl", {"bf16": True}), ("axolotl", {"bf16": "auto"}), ("axolotl", {"fp16": True}), ("torchtune", {})],
)
def test_weights_that_are_bfloat16_there_stay_so(tool: str, theirs: dict[str, Any], tmp_path: Path) -> None:
    found = settings(convert(write(tmp_path, tool, ("adapter",), **theirs)).text)
    assert found["model.dtype"] == "bfloat16"
    assert "optim.weight_rounding" not in found
