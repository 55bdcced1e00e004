"""The rules that the tables of the toolkits are made of, and that the tables lead to keys that exist."""

from __future__ import annotations

from typing import Any

import pytest

from galore.trainer.recipe.convert.axolotl import AXOLOTL
from galore.trainer.recipe.convert.draft import (
    OFF,
    UNWRITTEN,
    Draft,
    accumulation,
    clipping,
    interval,
    is_off,
    modules,
    switch,
    whole_steps,
)
from galore.trainer.recipe.convert.llama_factory import LLAMA_FACTORY
from galore.trainer.recipe.convert.torchtune import TORCHTUNE, resolved
from galore.trainer.recipe.explain.fields import fields


def made(rule: Any, value: Any, **others: Any) -> tuple[dict[str, Any], str]:
    """The settings, and the fate of the key."""
    draft = Draft({"key": value, **others}, lambda key: 1)
    rule(draft, "key", value)
    return draft.settings, draft.told[0].fate if draft.told else ""


@pytest.mark.parametrize(
    ("rule", "value", "settings", "fate"),
    [
        (clipping, 0.5, {"optim.max_grad_norm": 0.5}, "taken"),
        (clipping, 0, {"optim.max_grad_norm": None}, "changed"),
        (clipping, None, {"optim.max_grad_norm": None}, "taken"),
        (whole_steps("train.save_steps"), 500, {"train.save_steps": 500}, "taken"),
        (whole_steps("train.save_steps"), 0.25, {}, "left out"),
        (interval("eval.eval_steps", "eval.eval_epochs: 1"), "epoch", {"eval.eval_epochs": 1}, "changed"),
        (interval("eval.eval_steps"), "epoch", {}, "left out"),
        (interval("eval.eval_steps"), "no", {"eval.eval_steps": None}, "changed"),
        (accumulation("size"), 0, {}, "left out"),
        (modules, "q_proj,v_proj", {"optim.target_modules": ["q_proj", "v_proj"]}, "changed"),
        (modules, "all", {"optim.target_modules": ["self_attn", "mlp"]}, "changed"),
        (modules, None, {}, "left out"),
        (Draft.optimizer, "lion", {}, "left out"),
        (Draft.optimizer, "adamw_torch", {}, "changed"),
        (Draft.optimizer, "galore_adamw_8bit", {"optim.method": "galore", "optim.state_dtype": "8bit"}, "changed"),
    ],
)
def test_rules(rule: Any, value: Any, settings: dict[str, Any], fate: str) -> None:
    assert made(rule, value, size=2) == (settings, fate)


def test_micro_batches_multiply() -> None:
    assert made(accumulation("size"), 4, size=2)[0] == {"train.global_batch_size": 8}


@pytest.mark.parametrize(("value", "off"), [(0, False), (0.0, False), (False, True), (None, True), ("none", True)])
def test_what_is_off(value: Any, off: bool) -> None:
    assert is_off(value) is off


def why(rule: Any, key: str, value: Any) -> str:
    draft = Draft({key: value}, lambda key: 1)
    rule(draft, key, value)
    return draft.told[0].why


def by_name(draft: Draft, key: str, value: Any) -> None:
    draft.by_name(key)


@pytest.mark.parametrize(
    ("rule", "key", "value", "said"),
    [
        (by_name, "seed", None, "it is off there; train.seed is 42 here unless it is set"),
        (by_name, "cutoff_len", None, "it is off there; data.max_length is 256 here unless it is set"),
        (by_name, "bf16_full_eval", False, "it is off there; model.dtype is bfloat16 here unless it is set"),
        (by_name, "lora_target_linear", False, "it is off there; optim.target_modules is [self_attn, mlp] here"),
        (by_name, "galore_layerwise", False, OFF),
        (by_name, "max_steps", None, OFF),
        (by_name, "additional_target", None, OFF),
        (by_name, "new_special_tokens", None, OFF),
        (by_name, "report_to", "none", OFF),
        (by_name, "remove_unused_columns", False, UNWRITTEN),
        (by_name, "unheard_of", None, UNWRITTEN),
        (modules, "lora_target", None, "it is off there; optim.target_modules is [self_attn, mlp] here"),
        (switch("data.packing: packed"), "neat_packing", False, "it is off there; data.packing is packed here"),
        (switch("optim.method: galore"), "use_galore", False, "it is off there; optim.method is galore here"),
        (switch("optim.inner: muon"), "use_muon", False, OFF),
    ],
)
def test_off_as_it_is_here_is_said_of_what_is_off_here(rule: Any, key: str, value: Any, said: str) -> None:
    assert why(rule, key, value).startswith(said)


@pytest.mark.parametrize("tool", [LLAMA_FACTORY, AXOLOTL, TORCHTUNE], ids=lambda tool: tool.name)
def test_tables_lead_to_keys_that_exist(tool: Any) -> None:
    targets = {rule.partition(": ")[0] for rule in tool.table.values() if isinstance(rule, str)}
    assert targets <= set(fields())


def test_references_are_resolved() -> None:
    assert resolved({"out": "/tmp/x", "log": "${out}/logs", "other": "${absent}"}) == {
        "out": "/tmp/x",
        "log": "/tmp/x/logs",
        "other": "${absent}",
    }


def test_what_is_dropped_is_told_whoever_set_it() -> None:
    draft = Draft({"first": 1, "second": 2}, lambda key: 7)
    draft.take("first", "train.seed", 1)
    draft.settings |= {"optim.rank": 8, "train.save_steps": 5}
    draft.set_by["optim.rank"] = "second"
    for path in list(draft.settings):
        draft.drop(path, "refused")
    told = [(each.line, each.key, each.value, each.fate, each.why) for each in draft.told]
    assert told == [
        (7, "first", 1, "left out", "refused"),
        (7, "second", 2, "left out", "refused"),
        (0, "train.save_steps", 5, "left out", "refused"),
    ]
