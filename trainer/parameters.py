"""From a recipe's optim section to the optimizer, and to the table that says what happens to every parameter."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from galore.trainer.common.errors import UserError
from galore.trainer.optim import GaLoreAdamW, adamw_groups, check_complete, galore_groups
from galore.trainer.optim.groups import is_under
from galore.trainer.optim.projected import ProjectedSlot
from galore.trainer.optim.slot import FullSlot
from galore.trainer.recipe.schema.optim import OptimSection


def build_optimizer(model: nn.Module, optim: OptimSection, *, accumulation: int, seed: int) -> GaLoreAdamW:
    """The recipe's optimizer over the trainable parameters of `model`, every one of them in exactly one group.

    Raises:
        UserError: a target pattern matches nothing, or a parameter is left over.
    """
    try:
        if optim.method == "lora" and optim.adapter != "factors":
            trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
            groups = adamw_groups(trainable, optim.weight_decay)
        else:
            rank = optim.rank if optim.method == "galore" else None
            groups = galore_groups(
                model,
                rank,
                targets=optim.target_modules,
                rank_pattern=optim.rank_pattern if rank is not None else None,
                weight_decay=optim.weight_decay,
                scale=optim.effective_scale,
                inner=optim.inner,
            )
        check_complete(model, groups)
    except ValueError as error:
        raise UserError(
            str(error),
            where="optim.target_modules" + (" or optim.rank_pattern" if optim.rank_pattern else ""),
            fix="name parts of the layers' paths",
        ) from error
    return GaLoreAdamW(
        groups,
        lr=optim.learning_rate,
        betas=(optim.adam_beta1, optim.adam_beta2),
        eps=optim.adam_epsilon,
        update_proj_gap=optim.update_proj_gap,
        proj_type=optim.proj_type,
        side=optim.side,
        refresh_overlap=optim.refresh_overlap,
        momentum=optim.momentum,
        transport=optim.effective_transport,
        residual=optim.residual,
        projector_dtype=optim.projector_dtype,
        refresh=optim.effective_refresh,
        stagger=optim.stagger,
        update=optim.update,
        convention=optim.convention,
        state_dtype=optim.state_dtype,
        accumulator_dtype=getattr(torch, optim.accumulator_dtype),
        weight_rounding=optim.weight_rounding,
        accumulation=accumulation,
        seed=seed,
    )


@dataclass(frozen=True)
class ParameterRow:
    """Parameters of one kind and shape: how many, how they are updated, and what their optimizer keeps, in bytes."""

    name: str
    tensors: int
    shape: tuple[int, ...]
    update: str
    rank: int | None
    count: int
    weight_bytes: int
    state_bytes: int
    projector_bytes: int


def parameter_table(model: nn.Module, optimizer: GaLoreAdamW) -> list[ParameterRow]:
    """One row per kind (layer numbers left out) and shape, in the model's order; frozen parameters included."""
    kinds: dict[tuple[str, tuple[int, ...]], list[tuple[nn.Parameter, FullSlot | None]]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        kind = re.sub(r"\.\d+\.", ".*.", name).removesuffix(".weight")
        kinds[kind, tuple(parameter.shape)].append((parameter, optimizer.slots.get(parameter)))
    return [_row(kind, shape, members) for (kind, shape), members in kinds.items()]


def clamped_ranks(optimizer: GaLoreAdamW) -> list[str]:
    """A line for every kind of matrix whose smaller side is less than the rank asked for."""
    narrow = [slot for slot in optimizer.projected if slot.group["rank"] > slot.rank]
    kinds = {re.sub(r"\.\d+\.", ".*.", slot.name): slot for slot in narrow}
    return [
        f"{kind}: rank {slot.group['rank']} clamped to {slot.rank}, its smaller side: a rotation, which saves nothing"
        for kind, slot in kinds.items()
    ]


def left_full_rank(optimizer: GaLoreAdamW, targets: Sequence[str]) -> list[str]:
    """A line about matrices under `targets` that stay full-rank, since they are no layer's weight: `in_proj_weight`, experts in one tensor."""
    if not optimizer.projected:
        return []
    slots = [slot for slot in optimizer.slots.values() if slot.parameter.ndim >= 2 and is_under(slot.name, targets)]
    kinds = {re.sub(r"\.\d+\.", ".*.", slot.name) for slot in slots if not isinstance(slot, ProjectedSlot)}
    count = sum(slot.parameter.numel() for slot in slots if not isinstance(slot, ProjectedSlot))
    told = f"full-rank though under {', '.join(targets)}: {', '.join(sorted(kinds))}, {count:,} parameters that are no layer's `weight`"
    return [told] if kinds else []


def _scale_bytes(slot: FullSlot | None) -> int:
    return 0 if slot is None or slot.member.scales is None else slot.member.scales.nbytes


def _row(kind: str, shape: tuple[int, ...], members: list[tuple[nn.Parameter, FullSlot | None]]) -> ParameterRow:
    slots = [slot for _, slot in members if slot is not None]
    projected = next((slot for slot in slots if isinstance(slot, ProjectedSlot)), None)
    update = "frozen" if not slots else "full rank"
    if projected is not None:
        update = f"projected, {'right' if projected.transposed else 'left'}"
    planned = [slot.planned_bytes() for slot in slots]
    return ParameterRow(
        kind,
        len(members),
        shape,
        update,
        projected.rank if projected else None,
        sum(p.numel() for p, _ in members),
        sum(p.nbytes + _scale_bytes(slot) for p, slot in members),
        sum(states for states, _ in planned),
        sum(projectors for _, projectors in planned),
    )
