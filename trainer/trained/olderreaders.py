"""Configuration and tokenizer that transformers 4 reads as the same model: 5 moved, renamed and nested some keys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from galore.trainer.common.durable import replace_file
from galore.trainer.common.reading import read_bounded

ROPE_APART = ("rope_theta", "partial_rotary_factor")  # keys beside `rope_scaling` in 4, among `rope_parameters` in 5
LONGROPE = ("short_factor", "long_factor")
ORIGINAL = "original_max_position_embeddings"
OF_THIS_MACHINE = ("is_local", "local_files_only")


def add_older_keys(folder: Path) -> set[str]:
    """Write what transformers 4 looks for beside what 5 wrote into `folder`, which reads as before; names of the files.

    A file that is not there stays away: whoever reads the folder back says what is missing.
    """
    present = {name: change for name, change in CHANGES.items() if (folder / name).is_file()}
    for name, change in present.items():
        values = change(json.loads(read_bounded(folder / name)))
        replace_file(folder / name, json.dumps(values, indent=2, ensure_ascii=False) + "\n")
    return set(present)


def _older_config(values: dict[str, Any]) -> dict[str, Any]:
    """The keys of `values` and, of every part that rotates positions or has experts, the older ones."""
    values = {name: _older_config(each) if isinstance(each, dict) else each for name, each in values.items()}
    rope = values.get("rope_parameters")
    if isinstance(rope, dict):
        whole = rope.get("full_attention", rope)
        values |= _older_rope(whole, ORIGINAL in values)
        if "sliding_attention" in rope:
            values["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
    if "num_local_experts" in values and values.get("model_type") in ("qwen3_moe", "qwen2_moe", "olmoe"):
        values["num_experts"] = values["num_local_experts"]
    return values


def _older_rope(rope: dict[str, Any], names_original: bool) -> dict[str, Any]:
    """The older keys; of longrope the original length stands beside them, from which 4 works out the factor.

    A model whose configuration names that length itself, such as Phi-3, takes no other keys than three.
    """
    older: dict[str, Any] = {name: rope[name] for name in ROPE_APART if name in rope}
    if rope.get("rope_type") == "longrope":
        taken = LONGROPE if names_original else (*LONGROPE, "factor", "attention_factor", ORIGINAL)
        older["rope_scaling"] = {"type": "longrope"} | {name: rope[name] for name in taken if name in rope}
        older[ORIGINAL] = rope[ORIGINAL]
    elif rope.get("rope_type", "default") != "default":
        older["rope_scaling"] = {name: value for name, value in rope.items() if name not in ROPE_APART}
    return older


def _older_tokenizer(values: dict[str, Any]) -> dict[str, Any]:
    values = {name: value for name, value in values.items() if name not in OF_THIS_MACHINE}
    if values.get("tokenizer_class") == "TokenizersBackend":
        values["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(values.get("extra_special_tokens"), list):
        values["additional_special_tokens"] = values.pop("extra_special_tokens")
    return values


CHANGES = {"config.json": _older_config, "tokenizer_config.json": _older_tokenizer}
