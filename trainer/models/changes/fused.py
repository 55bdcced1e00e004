"""RMSNorm, SwiGLU and rotary positions of a decoder by operations of one pass each way: which they are, in words."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.activations import ACT2FN

from galore.kernels.device import device_type
from galore.kernels.ops.dispatch import BackendError, Case, choose
from galore.kernels.ops.fused.norm import rms_norm
from galore.kernels.ops.fused.rotary import rotate
from galore.kernels.ops.fused.swiglu import swiglu
from galore.trainer.common.errors import UserError
from galore.trainer.common.format import counted
from galore.trainer.models.cpu import FAMILIES

WHERE = "train.fused"
ROTATION = "apply_rotary_pos_emb"  # in the module of every architecture of FAMILIES
SILU = (nn.SiLU, type(ACT2FN["silu"]))


def fuse_pieces(model: PreTrainedModel, which: bool | Literal["auto"], device: torch.device) -> list[str]:
    """Let what lies between the products of `model` be read and written once; returns lines that say so, or why not.

    Parameters, their names and the saved configuration stay as they are, and results are the same up to rounding, of
    which there is one where there were two or three. Call it before adapters are added.

    Args:
        which: False changes nothing; "auto" does so on CUDA, where it can.

    Raises:
        UserError: it is asked for by name, and the model is of no family that is known.
    """
    if which is False or (which == "auto" and device_type(device) != "cuda"):
        return []
    reason = _obstacle(model, device)
    if reason and which is True:
        raise UserError(f"nothing can be fused: {reason}", where=WHERE, fix="write auto, or leave it out")
    if reason:
        return [f"between products: as transformers has it ({reason})"]
    norms = _changed(model, lambda module: type(module).__name__.endswith("RMSNorm"), _normed)
    gated = _changed(model, _is_gated, _gated)
    turned = _changed(model, lambda module: hasattr(module, "q_proj") and hasattr(module, "k_proj"), _turned)
    how = "Triton" if device_type(device) == "cuda" else "torch, in blocks"
    return [
        f"between products: {counted(norms, 'RMSNorm', 'RMSNorm')}, {gated} SwiGLU and rotary positions of {turned} "
        f"blocks in one pass each way ({how})"
    ]


def _obstacle(model: PreTrainedModel, device: torch.device) -> str:
    if model.config.model_type not in FAMILIES:
        return f"known for {', '.join(FAMILIES)}, not for {model.config.model_type}"
    if device_type(device) != "cuda":
        return ""
    try:
        runs = choose(Case(device, "", "one pass"))
    except BackendError as error:
        return str(error)
    return "" if runs.backend == "triton" else runs.why


def _changed(
    model: nn.Module, chosen: Callable[[nn.Module], bool], form: Callable[[type[nn.Module]], type[nn.Module]]
) -> int:
    """Give the `chosen` modules the class that `form` makes of theirs; returns how many there are."""
    modules = [module for module in model.modules() if chosen(module)]
    kinds = {kind: form(kind) for kind in {type(module) for module in modules}}
    for module in modules:
        module.__class__ = kinds[type(module)]
    return len(modules)


def _is_gated(module: nn.Module) -> bool:
    parts = all(hasattr(module, name) for name in ("gate_proj", "up_proj", "down_proj"))
    return parts and isinstance(getattr(module, "act_fn", None), SILU)


def _normed(kind: type[nn.Module]) -> type[nn.Module]:
    def forward(self: Any, hidden_states: Tensor) -> Tensor:
        if hidden_states.dtype != self.weight.dtype:
            out: Tensor = kind.forward(self, hidden_states)
            return out
        return rms_norm(hidden_states, self.weight, self.variance_epsilon)

    return with_forward(kind, forward)


def _gated(kind: type[nn.Module]) -> type[nn.Module]:
    def forward(self: Any, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(swiglu(self.gate_proj(x), self.up_proj(x)))
        return out

    return with_forward(kind, forward)


def _turned(kind: type[nn.Module]) -> type[nn.Module]:
    """The attention class with its own forward, which finds our rotation under the name of transformers'."""
    own: Any = inspect.unwrap(kind.forward)
    forward = types.FunctionType(own.__code__, {**own.__globals__, ROTATION: _rotation(own.__globals__[ROTATION])})
    forward.__kwdefaults__, forward.__defaults__ = own.__kwdefaults__, own.__defaults__
    return with_forward(kind, forward)


def _rotation(otherwise: Any) -> Any:
    def apply_rotary_pos_emb(
        q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1
    ) -> tuple[Tensor, Tensor]:
        known = unsqueeze_dim == 1 and cos.ndim == 3 and cos.shape[-1] == q.shape[-1] and cos.dtype == q.dtype
        return rotate(q, k, cos, sin) if known else otherwise(q, k, cos, sin, unsqueeze_dim=unsqueeze_dim)

    return apply_rotary_pos_emb


def with_forward(kind: type[nn.Module], forward: Any) -> type[nn.Module]:
    """`kind` under its own name and module, which others look at, with another forward."""
    return type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})
