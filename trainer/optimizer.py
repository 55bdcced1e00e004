"""From a recipe's optim section to the optimizer over a model's parameters."""

from __future__ import annotations

import dataclasses

import torch
from torch import nn

from galore.kernels.family import Options
from galore.trainer.common.errors import UserError
from galore.trainer.host.blocks import streamed
from galore.trainer.models.matmul.install import follow_steps
from galore.trainer.optim import (
    GaLoreAdamW,
    adamw_groups,
    check_complete,
    galore_groups,
    hand_over_int8,
    project_in_backward,
)
from galore.trainer.optim.ranks import Ranks
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
                **of_targets,
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
        accumulator_dtype=getattr(torch, optim.accumulator_dtype),
        accumulation=accumulation,
        seed=seed,
        ranks=ranks,
        **options,
    )


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
