"""Blocks of a model by torch.compile: what lies between their products is fused, whatever the architecture is."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from galore.trainer.common.errors import UserError
from galore.trainer.common.format import counted
from galore.trainer.models.changes.fused import with_forward
from galore.trainer.models.checkpointing import blocks_of

WHERE = "train.compile"
FIX = (
    f"leave {WHERE} out; a compiler that is missing (a CPU takes g++, CUDA takes triton) can be installed, a damaged cache "
    "(torchinductor_* in the temporary folder) deleted"
)
PASSES = ("_compile.compile_inner", "backward._backward_impl")  # forward and backward, as torch's own table has them
ATTRIBUTE = "_compiled_before"  # of the model: seconds that others in this process had taken


def compile_blocks(model: nn.Module) -> list[str]:
    """Compile the blocks of `model` for training; returns lines that say so. Nothing is compiled before the first step.

    The linear layers stay as they are: their backward hands gradients to the optimizer, which no graph has. A model
    that is evaluated runs as it is exported. Call it when the optimizer is attached. What this process has compiled
    before is forgotten, since torch keeps few graphs of one function.

    Raises:
        UserError: the model has no blocks that are known.
    """
    blocks = blocks_of(model)
    if not blocks:
        raise UserError(f"{type(model).__name__} has no blocks to compile", where=WHERE, fix="leave it out")
    torch.compiler.reset()
    setattr(model, ATTRIBUTE, _seconds())
    left = [module for block in blocks for module in block.modules() if _has_own_backward(module, block)]
    for module in left:
        vars(module)["forward"] = torch.compiler.disable(module.forward)  # type: ignore[no-untyped-call]
    kinds = {kind: _compiled(kind) for kind in {type(block) for block in blocks}}
    for block in blocks:
        block.__class__ = kinds[type(block)]
    return [
        f"blocks: {len(blocks)} by torch.compile while they are trained, {counted(len(left), 'linear layer')} in them "
        "as without; compiled in the first step"
    ]


def _has_own_backward(module: nn.Module, block: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or (module is not block and "forward" in vars(module))


def _compiled(kind: type[nn.Module]) -> type[nn.Module]:
    """`kind`, compiled where it is trained; what recomputes it calls that, too."""
    plain: Any = kind.forward
    compiled = torch.compile(plain, options={"fallback_random": True})  # dropout as it is drawn without

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return (compiled if self.training else plain)(self, *args, **kwargs)

    return with_forward(kind, forward)


def seconds_told(model: nn.Module) -> str:
    """How long has been compiled since the blocks of `model` were to be, in words."""
    return f"torch.compile took {_seconds() - getattr(model, ATTRIBUTE):.0f} s"


def _seconds() -> float:
    import torch._dynamo.utils as dynamo

    names, taken = dynamo.compile_times(repr="csv", aggregate=True)
    return sum(float(str(each)) for name, each in zip(names, taken, strict=True) if name in PASSES)


def refusal(error: Exception) -> UserError | None:
    """The error of a compiler as one that says what to do; None of any other error."""
    import torch._dynamo.exc as dynamo

    if not isinstance(error, dynamo.TorchDynamoException):
        return None
    cause = getattr(error, "inner_exception", None) or error
    why = str(cause).strip().partition("\n")[0] or type(cause).__name__
    return UserError(f"torch.compile failed: {why}", where=WHERE, fix=FIX)
