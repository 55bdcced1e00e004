"""Tokens per second and MFU of 350M and 1B: ours, with the pieces between products fused and not, and transformers' Trainer
with galore-torch, the same rows in turns. Ordinary steps: the reference's first SVD, minutes long, is replaced by a cheap basis.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import median

import turns

from gpu.records import Records
from gpu.scale import BATCH, Scale

LONG = 10_000  # steps, so that no schedule ends; refreshes come never after the first
OURS = "fused"
SIDES: dict[str, tuple[str, dict[str, str], tuple[str, ...]]] = {
    OURS: ("ours", {}, ("train.fused=auto",)),
    "not fused": ("ours", {}, ("train.fused=false",)),
    "trainer": ("theirs", {}, ()),
}


@dataclass(frozen=True)
class Size:
    """A recipe with settings of its own, sequences per step and per micro-batch, and steps of one turn."""

    recipe: str
    rows: int
    micro: int
    block: int
    settings: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return ", ".join((self.recipe, *self.settings))


# rows as long as a card has to be busy, and as short as published runs have them
LENGTH = ("data.max_length=2048", "model.max_position_embeddings=2048")
SIZES = (Size("llama-1b-galore", 8, 4, 3, LENGTH), Size("llama-350m-galore", 64, 32, 8))
TINY = (Size("llama-60m-galore", 2, 1, 1),)
TURNS = 3


def prove(scale: Scale, records: Records) -> None:
    for size in scale.sizes(SIZES, TINY):
        _versus(size, scale, records)


def tasks(size: Size, scale: Scale) -> dict[str, turns.Task]:
    """What each side is given."""
    settings = (f"optim.update_proj_gap={LONG}", *size.settings, *scale.tiny(but=BATCH))
    task = turns.Task(size.recipe, size.rows, size.micro, LONG, scale.device, settings, cheap_basis=True)
    return {name: replace(task, settings=(*settings, *own)) for name, (_, _, own) in SIDES.items()}


def _versus(size: Size, scale: Scale, records: Records) -> None:
    given = tasks(size, scale)
    sides = {name: turns.Child(side, given[name], scale.environment(**more)) for name, (side, more, _) in SIDES.items()}
    try:
        kept = {}
        for name, side in sides.items():
            try:
                side.take(2)  # compilation, the first decomposition, caches
                kept[name] = side
            except RuntimeError as error:
                records.note(f"{size.name}, {name}: {error}", ok=False)
        found: dict[str, list[float]] = {name: [] for name in kept}
        for _ in range(scale.turns(TURNS)):
            for name, side in kept.items():
                found[name].append(side.take(size.block))
        _tell(size, given[OURS], found, scale, records)
    finally:
        for side in sides.values():
            side.end()


def _tell(size: Size, task: turns.Task, found: dict[str, list[float]], scale: Scale, records: Records) -> None:
    peak, flops = _peak(scale), _flops_per_token(task)
    for name, rates in found.items():
        mfu = {"mfu": median(rates) * flops / peak} if peak and flops else {}
        spread = f"{min(rates):,.0f}–{max(rates):,.0f}"
        records.note(f"{size.name}, {name}: tokens per second", median=median(rates), spread=spread, **mfu)
    for other in ("not fused", "trainer"):
        if OURS in found and other in found:
            ratios = [ours / theirs for ours, theirs in zip(found[OURS], found[other], strict=True)]
            records.note(
                f"{size.name}: ours, fused / {other}", ratio=median(ratios), least=min(ratios), most=max(ratios)
            )


def _peak(scale: Scale) -> float | None:
    import torch

    from galore.trainer.machine.hardware import device_peak

    return device_peak(scale.device, torch.bfloat16).flops_per_second


def _flops_per_token(task: turns.Task) -> int | None:
    from pathlib import Path

    from galore.trainer.build import build_model
    from galore.trainer.models.flops import flops_per_token

    recipe = task.loaded()
    model, _ = build_model(recipe, recipe.model.vocab_size or 1, "meta", Path())
    return flops_per_token(model, recipe.data.max_length)
