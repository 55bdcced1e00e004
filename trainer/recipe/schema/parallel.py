"""A recipe's `parallel` section: how several processes share the work of one run."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from galore.kernels.family import WITHOUT_WHOLE
from galore.trainer.recipe.schema.optim import OptimSection
from galore.trainer.recipe.schema.section import Section, execution
from galore.trainer.recipe.schema.train import TrainSection

ParallelMode = Literal["auto", "ddp", "fsdp"]
Checkpoints = Literal["whole", "parts"]
Silence = Annotated[float, Field(ge=10, le=86_400)]  # seconds; less would be a full machine's, more is as good as none


class ParallelSection(Section):
    """How the processes that torchrun started share a run. None of it changes what is computed."""

    mode: ParallelMode = execution(
        "auto",
        "auto: ddp where torchrun started several processes, else one process; ddp: each process holds the whole model and takes its share of every batch, and projected sums are added up; fsdp: each process holds a part of the weights and states, gathers a block at a time, and of projected gradients sends r×n; for models that do not fit one card",
    )
    checkpoints: Checkpoints = execution(
        "whole",
        "of mode fsdp. whole: tensors are gathered one at a time, and the first process writes them as one process does, for any reader of safetensors; parts: every process writes what it holds, at once and gathering nothing, in the format of PyTorch's distributed checkpoint; resume, eval, generate and export read both on any number of processes",
    )
    heartbeat_timeout: Silence | None = execution(
        45.0,
        "Seconds without a sign of life of another process, whose machine may have lost its power, after which this one ends with exit code 1; signs are given beside all work, so that no long step, save or tokenizing is taken for silence. null: it is noticed by the time limit of collectives, two hours. One whose connections break is noticed at once, whatever this says",
    )


def check_parallel(parallel: ParallelSection, optim: OptimSection, train: TrainSection) -> None:
    """Raise ValueError for what no process could do as it is asked to."""
    if parallel.mode == "fsdp":
        _check_fsdp(optim)
        if train.snapshot_parameters:
            raise ValueError(
                "train.snapshot_parameters keeps whole weights, and with parallel.mode: fsdp no process has them: set ddp, or "
                "take them from the checkpoints"
            )
    elif parallel.checkpoints == "parts":
        raise ValueError(
            f"parallel.checkpoints: parts is of weights that lie in parts, and with parallel.mode: {parallel.mode} every process has them whole: set parallel.mode: fsdp, or parallel.checkpoints: whole"
        )


def _check_fsdp(optim: OptimSection) -> None:
    """Raise ValueError for the first setting that weights in parts cannot be trained with."""
    if optim.method == "galore" and optim.residual not in WITHOUT_WHOLE:
        raise ValueError(
            f"parallel.mode: fsdp sends no whole gradients, which optim.residual: {optim.residual} needs in every step: set ddp"
        )
    rules = {"inner": optim.inner, "head_inner": optim.head_inner or "adamw"}
    if whole := next((key for key, rule in rules.items() if rule != "adamw"), None):
        raise ValueError(
            f"parallel.mode: fsdp cuts moments into parts, and optim.{whole}: {rules[whole]} sees a matrix as a whole: set ddp"
        )
    if optim.adapter == "relora":
        raise ValueError(
            "parallel.mode: fsdp cannot merge adapters into weights that lie in parts, as optim.adapter: relora does: set lora, or ddp"
        )
