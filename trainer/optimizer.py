"""From a recipe's optim section to the optimizer over a model's parameters."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from galore.kernels.family import Options
from galore.trainer.common.errors import UserError
from galore.trainer.host.attach import outermost_blocks
from galore.trainer.host.blocks import streamed
from galore.trainer.models.adapters.lora import without_adapters
from galore.trainer.models.classifier import head_modules
from galore.trainer.models.head import split_head
from galore.trainer.models.matmul.install import follow_steps
from galore.trainer.optim import (
    GaLoreAdamW,
    adamw_groups,
    check_complete,
    galore_groups,
    hand_over_int8,
    project_in_backward,
)
from galore.trainer.optim.groups import is_trained, named_apart
from galore.trainer.optim.int8_linear import int8_layers
from galore.trainer.optim.projected import ProjectedSlot
from galore.trainer.optim.ranks import Ranks
from galore.trainer.parallel.entered import entered
from galore.trainer.parallel.group import Group, require_same_weights
from galore.trainer.recipe.schema.optim import OptimSection
from galore.trainer.recipe.schema.recipe import Recipe


def build_optimizer(
    model: nn.Module, optim: OptimSection, *, accumulation: int, seed: int, ranks: Ranks | None = None
) -> GaLoreAdamW:
    """The recipe's optimizer over the trainable parameters of `model`, every one of them in exactly one group.

    Raises:
        UserError: a target pattern matches nothing, or a parameter is left over.
    """
    options = {each.name: getattr(optim, each.name) for each in dataclasses.fields(Options)}
    of_targets = {name: options.pop(name) for name in ("scale", "inner")}
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
                head_inner=optim.head_inner,
                **of_targets,
            )
        groups = named_apart(groups, _rates_of_their_own(model, optim))
        check_complete(model, groups)
    except ValueError as error:
        raise UserError(
            str(error),
            where="optim.target_modules" + (" or optim.rank_pattern" if optim.rank_pattern else ""),
            fix="name parts of the layers' paths",
        ) from error
    peaks = optim.peak_rates
    return GaLoreAdamW(
        [{**group, "lr": peaks[group["name"]]} if "name" in group else group for group in groups],
        lr=optim.learning_rate,
        betas=(optim.adam_beta1, optim.adam_beta2),
        eps=optim.adam_epsilon,
        accumulator_dtype=getattr(torch, optim.accumulator_dtype),
        accumulation=accumulation,
        seed=seed,
        ranks=ranks,
        **options,
    )


def _rates_of_their_own(model: nn.Module, optim: OptimSection) -> dict[nn.Parameter, str]:
    """Trained parameter → the key of its peak rate, for those that do not have the common one.

    Raises:
        UserError: nothing is trained that a key is for, or two keys give one matrix two rates.
    """
    found: dict[nn.Parameter, str] = {}
    peaks = optim.peak_rates
    for key, modules in (("embedding_learning_rate", _tables), ("head_learning_rate", _heads)):
        if (rate := peaks.get(key)) is None:
            continue
        own = [p for module in modules(model) for p in module.parameters() if is_trained(p)]
        if not own:
            raise UserError(
                f"{rate:g} is of the {key.partition('_')[0]}, and this run trains no such parameter",
                where=f"optim.{key}",
                fix="leave it out" + (", or name the module in optim.train_modules" if optim.method == "lora" else ""),
            )
        if any(peaks[found[p]] != rate for p in own if p in found):
            raise UserError(
                f"{rate:g}, and optim.embedding_learning_rate: {peaks['embedding_learning_rate']:g}: head and embedding of "
                "this model are one matrix (tied weights)",
                where=f"optim.{key}",
                fix="leave one of them out",
            )
        found |= dict.fromkeys(own, key)
    return found


def _tables(model: nn.Module) -> list[nn.Module]:
    """Every embedding; with its adapters, where it has some."""
    return [each for each in model.modules() if isinstance(getattr(each, "base_layer", each), nn.Embedding)]


def _heads(model: nn.Module) -> list[nn.Module]:
    """What makes outputs of hidden states: a classifier's head, or a language model's."""
    base = without_adapters(model)
    head = base.get_output_embeddings()
    named = [base.get_submodule(name) for name in head_modules(base)]
    return named or ([] if head is None else [head])


def attach_optimizer(model: nn.Module, recipe: Recipe, accumulation: int, ranks: Ranks | None = None) -> GaLoreAdamW:
    """The recipe's optimizer on the gradients of `model`, projecting where the recipe says."""
    optimizer = build_optimizer(model, recipe.optim, accumulation=accumulation, seed=recipe.train.seed, ranks=ranks)
    if (blocks := streamed(model)) is not None:
        optimizer.before_write = blocks.change
        optimizer.register_step_post_hook(lambda *_: blocks.flush())
    follow_steps(model, optimizer, 0 if ranks is None else ranks.rank)
    hand_over_int8(model, optimizer)
    if recipe.optim.projection == "backward":
        project_in_backward(model, optimizer)
    return optimizer


def attach_sharded(
    model: nn.Module,
    recipe: Recipe,
    accumulation: int,
    group: Group,
    device: torch.device,
    along: Mapping[int, int],
) -> GaLoreAdamW:
    """The recipe's optimizer for one of `group`, which keeps its part of every weight, on `device`, and no more.

    Args:
        along: see `cut_along`.

    Raises:
        RunFailed: the ranks begin with different weights.
    """
    from galore.trainer.parallel.sharding import hand_over, shard  # a second of imports, which only these runs need

    require_same_weights(model, group)
    shard(model, outermost_blocks(model), group, device, getattr(torch, recipe.optim.accumulator_dtype), along)
    group.sharded = True
    optimizer = attach_optimizer(model, recipe, accumulation, group)
    hand_over(model, optimizer)
    with torch.no_grad():
        entered(model, lambda: split_head(model))  # it looks at the model once, and then remembers
    return optimizer


def cut_along(model: nn.Module, recipe: Recipe, group: Group) -> dict[int, int]:
    """Dimension that each projected parameter is cut along, by its id: of the side that is not projected.

    Raises:
        UserError: a weight cannot be cut into as many parts, or belongs to several blocks.
    """
    plan = build_optimizer(model, recipe.optim, accumulation=1, seed=recipe.train.seed, ranks=group)
    plan.release()
    refuse_uneven(model, plan, group.size)
    return {id(slot.parameter): 0 if slot.transposed else 1 for slot in plan.projected}


def _refuse_shared(model: nn.Module) -> None:
    """Raise UserError where several blocks have a weight in common, of which each would keep a part of its own."""
    owners = Counter(id(own) for block in outermost_blocks(model) for own in {*block.parameters()})
    name = next((name for name, each in model.named_parameters() if owners[id(each)] > 1), None)
    if name is not None:
        what = f"several blocks of {type(model).__name__} have {name} in common, and fsdp gathers each block alone"
        raise UserError(what, where="parallel.mode", fix="set ddp")


def refuse_uneven(model: nn.Module, optimizer: GaLoreAdamW, size: int) -> None:
    """Raise UserError where a projected weight of `model` cannot be cut into `size` parts, or blocks share one."""
    _refuse_shared(model)
    scales = {id(layer.weight): layer.weight_scale for layer in int8_layers(model)}
    for slot in optimizer.projected:
        _refuse_uneven(slot, scales, size)


def _refuse_uneven(slot: ProjectedSlot, scales: Mapping[int, Tensor], size: int) -> None:
    """Raise UserError where the columns of a wide weight, or groups of them that share a scale, go not evenly round."""
    if slot.transposed:
        return  # its rows are shared out, the last process may have fewer
    held = scales.get(id(slot.parameter), slot.parameter)
    if held.shape[1] % size:
        what = "columns" if held is slot.parameter else "groups of columns, which have a scale each,"
        raise UserError(
            f"fsdp shares out the columns of {slot.name} {tuple(slot.parameter.shape)}, and {held.shape[1]} {what} are not divisible by {size} processes",
            where="parallel.mode",
            fix="start another number of processes, or set ddp",
        )
