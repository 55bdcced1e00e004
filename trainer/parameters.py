"""From a recipe's optim section to the optimizer, and to the table that says what happens to every parameter."""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from galore.trainer.build import build_model
from galore.trainer.checkpoint.checkpoint import bytes_for
from galore.trainer.checkpoint.state import planned_bytes
from galore.trainer.common.format import counted, size
from galore.trainer.common.reading import is_there, user_path
from galore.trainer.data.tokens.extend import add_tokens
from galore.trainer.data.tokens.tokenizer import given_tokenizer, id_bound
from galore.trainer.losses.build import build_extra
from galore.trainer.losses.extra import About
from galore.trainer.losses.router import build_router
from galore.trainer.models.changes.table import told
from galore.trainer.models.flops import flops_per_token, recomputed_flops_per_token
from galore.trainer.optim import GaLoreAdamW
from galore.trainer.optim.groups import is_under
from galore.trainer.optim.parts.modes import Whole
from galore.trainer.optim.projected import ProjectedSlot
from galore.trainer.optim.slot import FullSlot
from galore.trainer.optimizer import attach_optimizer
from galore.trainer.recipe.load import LoadedRecipe
from galore.trainer.recipe.schema.recipe import Recipe


@dataclass(frozen=True)
class ParameterRow:
    """Parameters of one kind and shape: how many, how they are updated, and what their optimizer keeps, in bytes.

    `learning_rate`: the peak; None where they are frozen.
    """

    name: str
    tensors: int
    shape: tuple[int, ...]
    update: str
    rank: int | None
    count: int
    weight_bytes: int
    state_bytes: int
    projector_bytes: int
    learning_rate: float | None = None


def parameter_table(model: nn.Module, optimizer: GaLoreAdamW) -> list[ParameterRow]:
    """One row per kind (layer numbers left out) and shape, in the model's order; frozen parameters included."""
    kinds: dict[tuple[str, tuple[int, ...]], list[tuple[nn.Parameter, FullSlot | None]]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        kind = re.sub(r"\.\d+\.", ".*.", name).removesuffix(".weight")
        kinds[kind, tuple(parameter.shape)].append((parameter, optimizer.slots.get(parameter)))
    return [_row(kind, shape, members) for (kind, shape), members in kinds.items()]


def clamped_ranks(optimizer: GaLoreAdamW) -> list[str]:
    """A line, if some matrices are projected to the whole of their smaller side: how many, and one of them."""
    whole = [slot for slot in optimizer.projected if slot.rank == min(slot.weight.shape)]
    if not whole:
        return []
    least = min(whole, key=lambda slot: slot.rank)
    kind, asked = re.sub(r"\.\d+\.", ".*.", least.name), least.group["rank"]
    of = f"{len(whole)} of {counted(len(optimizer.projected), 'projected matrix', 'projected matrices')}"
    rank = f"clamped to {least.rank}, its smaller side," if asked > least.rank else "is the whole of the smaller side"
    return [f"rank {asked} {rank} in {kind}: a rotation, which saves nothing; so in {of}"]


def left_full_rank(optimizer: GaLoreAdamW, targets: Sequence[str]) -> list[str]:
    """A line about matrices under `targets` that stay full-rank, no layer's weight: `in_proj_weight`, experts."""
    if not optimizer.projected:
        return []
    slots = [slot for slot in optimizer.slots.values() if slot.parameter.ndim >= 2 and is_under(slot.name, targets)]
    kinds = {re.sub(r"\.\d+\.", ".*.", slot.name) for slot in slots if not isinstance(slot, ProjectedSlot)}
    count = sum(slot.parameter.numel() for slot in slots if not isinstance(slot, ProjectedSlot))
    told = f"full-rank though under {', '.join(targets)}: {', '.join(sorted(kinds))}, {counted(count, 'parameter')} that are no layer's `weight`"
    return [told] if kinds else []


def whole_gradients(optimizer: GaLoreAdamW, recipe: Recipe) -> list[str]:
    """A line, if gradients of target matrices are summed whole until the step: what that takes, and where."""
    optim = recipe.optim
    if optim.method == "lora" or optim.update == "immediate":
        return []
    kept = [slot for slot in optimizer.slots.values() if _sums_whole(slot, optim.target_modules)]
    width = getattr(torch, optim.accumulator_dtype).itemsize
    if recipe.train.accumulation == 1:  # then it is the gradient as the backward gives it
        width = min([width, *(slot.parameter.itemsize for slot in kept if slot.parameter.is_floating_point())])
    nbytes = width * sum(slot.parameter.numel() for slot in kept)
    where = "in host memory, one at a time on the device"
    if optim.gradient_sums == "device":
        where = f"on the device; optim.gradient_sums: host keeps them {where}"
    told = f"gradients of {counted(len(kept), 'target matrix', 'target matrices')} are summed whole: {size(nbytes)} {where}"
    return [told] if kept else []


def _sums_whole(slot: FullSlot, targets: Sequence[str]) -> bool:
    if isinstance(slot, ProjectedSlot):
        return isinstance(slot.refresh, Whole)
    return slot.parameter.ndim >= 2 and is_under(slot.name, targets)


def _scale_bytes(slot: FullSlot | None) -> int:
    return 0 if slot is None or slot.weight.scales is None else slot.weight.scales.nbytes


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
        slots[0].group["lr"] if slots else None,
    )


DRY_RUN_VOCABULARY = 32_000  # rows of the embedding where neither recipe nor model says; a dry run reads no corpus


def planned_vocabulary(loaded: LoadedRecipe) -> tuple[int, list[str]]:
    """Token ids to plan for, and a note where the number is assumed: a tokenizer is read where it is a file here, and
    that of a model for its new tokens only.
    """
    recipe = loaded.recipe
    if recipe.model.vocab_size is not None:
        return recipe.model.vocab_size, []
    new, known = recipe.model.tokens_to_add, recipe.model.published
    if known is not None:
        return known.vocab_size + len(new), []
    if recipe.model.name_or_path is not None:
        tokenizer = given_tokenizer(recipe, loaded.base_dir) if new else None
        if tokenizer is None:
            return 1, []
        add_tokens(tokenizer, new)
        return id_bound(tokenizer), []
    named = recipe.data.tokenizer
    if named is not None and is_there(loaded.base_dir / user_path(named)):
        tokenizer = given_tokenizer(recipe, loaded.base_dir)
        assert tokenizer is not None
        add_tokens(tokenizer, new)
        return id_bound(tokenizer), []
    vocabulary = (recipe.data.tokenizer_vocab_size if named is None else DRY_RUN_VOCABULARY) + len(new)
    why = "its tokenizer is made of the text" if named is None else f"{named} is not here"
    return vocabulary, [f"vocabulary of {vocabulary} assumed, as model.vocab_size is not set: {why}"]


def assumptions(loaded: LoadedRecipe) -> list[str]:
    """Notes of what a plan of memory and seconds takes for granted, and the run may have otherwise."""
    return [*planned_vocabulary(loaded)[1], *_not_compiled(loaded.recipe)]


def _not_compiled(recipe: Recipe) -> list[str]:
    told = "train.compile: memory and seconds are those of the step that is not compiled"
    return [told] if recipe.train.compile else []


@dataclass(frozen=True)
class Costs:
    """What a run's length multiplies: FLOPs of a token (None: unknown), a checkpoint's bytes, token ids.

    `needed_flops_per_token` leaves out what is computed again, as MFU does.
    """

    flops_per_token: int | None
    checkpoint_bytes: int
    vocabulary: int
    needed_flops_per_token: int | None = None


@dataclass(frozen=True)
class DryRun:
    """What a run would train: the parameter table, the bytes of weights, moments and projectors, and what they cost."""

    parameters: list[ParameterRow]
    notes: list[str]
    costs: Costs


def dry_run(loaded: LoadedRecipe) -> DryRun:
    """Build model and optimizer without allocating them; reads no data.

    Raises:
        UserError: the model or the parameter groups cannot be built.
    """
    recipe = loaded.recipe
    vocabulary, notes = planned_vocabulary(loaded)
    notes += _not_compiled(recipe)
    model, _ = build_model(recipe, vocabulary, "meta", loaded.base_dir)
    build_extra(About(recipe, model, "meta", loaded.base_dir, 1))
    build_router(recipe, model)
    optimizer = attach_optimizer(model, recipe, recipe.train.accumulation)
    if recipe.train.device == "cuda" and not torch.cuda.is_available():
        notes.append("train.device is cuda, and no CUDA device is visible here: the run itself would be refused")
    notes += [
        *told(model, "train.matmul"),
        *clamped_ranks(optimizer),
        *left_full_rank(optimizer, recipe.optim.target_modules),
    ]
    notes += whole_gradients(optimizer, recipe)
    return DryRun(
        parameter_table(model, optimizer), [*notes, _together(model, optimizer)], _costs(model, optimizer, recipe)
    )


def _costs(model: Any, optimizer: GaLoreAdamW, recipe: Recipe) -> Costs:
    length = recipe.data.max_length
    once = flops_per_token(model, length)
    again = recomputed_flops_per_token(model, length, recipe.train.gradient_checkpointing)
    return Costs(
        None if once is None or again is None else once + again,
        bytes_for(planned_bytes(model, optimizer)),
        int(model.get_input_embeddings().weight.shape[0]),
        once,
    )


def _together(model: nn.Module, optimizer: GaLoreAdamW) -> str:
    weights = sum(tensor.nbytes for tensor in itertools.chain(model.parameters(), model.buffers()))
    kept = sum(sum(slot.planned_bytes()) for slot in optimizer.slots.values())
    return (
        f"weights, states and projectors are {size(weights + kept)} together; accumulators and activations come on top"
    )
