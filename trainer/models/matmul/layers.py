"""Which linear layers multiply in 8 bits, and for each that does not, the reason."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from galore.trainer.models.linears import is_plain

THIN = 16  # of a matrix' sides: below it no tile of a matrix unit is filled
OUTSIDE = "outside the blocks: a head's product makes the loss"
OWN = "computes more than a product"
ADAPTER = "an adapter, thin and trained"
SHARING = (("q_proj", "k_proj", "v_proj", "g_proj"), ("gate_proj", "up_proj"))  # of one module, given one input
NARROW = f"less than {THIN} wide"


def eight_bit_layers(model: nn.Module) -> tuple[dict[str, nn.Linear], dict[str, str]]:
    """({path: layer} of those that do, {path: reason} of all other linear layers)."""
    chosen, left = dict[str, nn.Linear](), dict[str, str]()
    blocks = [name for name, module in model.named_modules() if isinstance(module, GradientCheckpointingLayer)]
    inside = {f"{name}." for name in blocks}
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        why = _against(name, module, inside)
        if why:
            left[name] = why
        else:
            chosen[name] = module
    return chosen, left


def users_of(names: Iterable[str]) -> dict[str, int]:
    """{path: how many of those layers are given the same input}, as their names have it."""
    places = {name: _place(name) for name in names}
    counts = Counter(places.values())
    return {name: counts[place] for name, place in places.items()}


def _place(name: str) -> tuple[str, object]:
    """(module, the layers that share an input in it, or the layer)."""
    parent, _, own = name.removesuffix(".base_layer").rpartition(".")
    return parent, next((together for together in SHARING if own in together), own)


def _against(name: str, module: nn.Linear, blocks: set[str]) -> str:
    parts = name.split(".")
    if not any(".".join(parts[:end]) + "." in blocks for end in range(1, len(parts))):
        return OUTSIDE
    if not is_plain(module):
        return OWN
    if ".lora_A." in name or ".lora_B." in name:
        return ADAPTER
    return NARROW if min(module.in_features, module.out_features) < THIN else ""


def in_words(left: dict[str, str]) -> str:
    """`lm_head (why), model.layers.*.router (why)`: layers of one place once."""
    places = {re.sub(r"\.\d+\.", ".*.", name): why for name, why in left.items()}
    reasons: dict[str, list[str]] = {}
    for place, why in places.items():
        reasons.setdefault(why, []).append(place)
    return ", ".join(f"{', '.join(names)} ({why})" for why, names in reasons.items())
