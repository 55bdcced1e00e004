"""Rotary modules set for a while, and first tokens whose positions stay unscaled."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from galore.trainer.models.pretrained import load_pretrained, read_config
from galore.trainer.models.rope.rotary import StartLeftAlone, rotating
from galore.trainer.models.rope.scaling import scale_rope
from galore.trainer.recipe.schema.rope import RopeSection

Build = Callable[..., PreTrainedModel]
IDS = torch.arange(48)[None]
LONG = {"type": "longrope", "factor": 4, "long_factor": [1, 2, 3, 4]}


def test_a_model_rotates_otherwise_for_a_while(build: Build) -> None:
    plain, other = build().eval(), build(rope={"type": "yarn", "factor": 4}).eval()
    before = plain(IDS).logits
    with rotating(plain, other.config):
        assert torch.equal(plain(IDS).logits, other(IDS).logits)
    assert torch.equal(plain(IDS).logits, before)
    assert not torch.equal(before, other(IDS).logits)


def test_the_first_tokens_are_as_if_nothing_was_scaled(build: Build) -> None:
    plain, scaled = build(), build(rope=LONG)
    model: Any = build(rope=LONG | {"start_tokens": 5})
    rotary = [each.model.rotary_emb(torch.zeros(1), IDS) for each in (plain, scaled, model)]  # type: ignore[operator]
    for one, other, both in zip(*rotary, strict=True):
        assert torch.equal(both[:, :5], one[:, :5])
        assert torch.equal(both[:, 5:], other[:, 5:])


def test_start_tokens_are_read_back(build: Build, tmp_path: Path) -> None:
    model = build(rope=LONG | {"start_tokens": 5}).eval()
    model.save_pretrained(tmp_path)
    config = read_config(str(tmp_path), None)
    again = load_pretrained(str(tmp_path), config, revision=None, dtype=torch.float32, attn_implementation=None).eval()
    assert torch.equal(model(IDS).logits, again(IDS).logits)
    none = copy.deepcopy(config)
    scale_rope(none, RopeSection(**LONG), Path(), built=True)
    none.rope_start_tokens = 0
    with rotating(again, none):
        assert not any(isinstance(module, StartLeftAlone) for module in again.modules())
        assert not torch.equal(model(IDS).logits, again(IDS).logits)
