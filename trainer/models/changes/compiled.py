"""Blocks of a model by torch.compile: what lies between their products is fused, whatever the architecture is."""

from __future__ import annotations

import types
from typing import Any

import torch
from torch import nn

from galore.trainer.common.errors import UserError
from galore.trainer.common.format import counted
from galore.trainer.models.checkpointing import blocks_of

WHERE = "train.compile"
FIX = f"leave {WHERE} out, or install what it names: a CPU takes a C++ compiler such as g++, CUDA takes triton"
PASSES = ("_compile.compile_inner", "backward._backward_impl")  # forward and backward, as torch's own table has them


def compile_blocks(model: nn.Module) -> list[str]:
    """Compile the blocks of `model` for training; returns lines that say so. Nothing is compiled before the first step.

    The linear layers stay as they are: their backward hands gradients to the optimizer, which no graph has. A model
    that is evaluated runs as it is exported. Call it when the optimizer is attached.

    Raises:
        UserError: the model has no blocks that are known.
    """
    blocks = blocks_of(model)
    if not blocks:
        raise UserError(f"{type(model).__name__} has no blocks to compile", where=WHERE, fix="leave it out")
    left = [module for block in blocks for module in block.modules() if _has_own_backward(module)]
    for module in left:
        vars(module)["forward"] = torch.compiler.disable(module.forward)  # type: ignore[no-untyped-call]
    for block in blocks:
        vars(block)["forward"] = _in_training(block, block.forward)
    return [
        f"blocks: {len(blocks)} by torch.compile while they are trained, {counted(len(left), 'linear layer')} in them as "
        "without; compiled in the first step"
    ]


def _has_own_backward(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or "forward" in vars(module)


def _in_training(block: nn.Module, plain: Any) -> Any:
    compiled = torch.compile(plain)

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return (compiled if self.training else plain)(*args, **kwargs)

    return types.MethodType(forward, block)


def seconds_told() -> str:
    """How long this process has compiled so far, in words."""
    import torch._dynamo.utils as dynamo

    names, taken = dynamo.compile_times(repr="csv", aggregate=True)
    seconds = sum(float(str(each)) for name, each in zip(names, taken, strict=True) if name in PASSES)
    return f"torch.compile took {seconds:.0f} s"


def refusal(error: Exception) -> UserError | None:
    """The error of a compiler as one that says what to do; None of any other error."""
    import torch._dynamo.exc as dynamo

    if not isinstance(error, dynamo.TorchDynamoException):
        return None
    why = str(error).strip().partition("\n")[0]
    return UserError(f"torch.compile failed: {why}", where=WHERE, fix=FIX)
