"""The rules that the tables of the toolkits are made of, and that the tables lead to keys that exist."""

from __future__ import annotations

from typing import Any

import pytest

from galore.trainer.recipe.convert.axolotl import AXOLOTL
from galore.trainer.recipe.convert.draft import Draft, accumulation, clipping, interval, is_off, modules, whole_steps
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
