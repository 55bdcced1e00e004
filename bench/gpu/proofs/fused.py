"""What lies between products in one pass each way: errors beside float64, times beside transformers', whole steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gpu.proofs.matmul import SIZES, TINY, seconds, steps
from gpu.records import Records
from gpu.scale import Scale

TOKENS, WIDTH, INNER, HEADS = 8192, 4096, 11008, 32  # of LLaMA-7B
ERROR = 4e-3  # of one rounding to bf16, relative
CHOICES = {
    f"products in {name}, {'fused' if on == 'auto' else 'as transformers has it'}": (
        f"train.matmul={name}",
        f"train.fused={on}",
    )
    for name in ("bf16", "int8")
    for on in ("false", "auto")
}


def prove(scale: Scale, records: Records) -> None:
    for name, (ours, theirs, shapes) in _pieces(
        *((16, 64, 96, 4) if scale.rehearsal else (TOKENS, WIDTH, INNER, HEADS))
    ):
        _piece(name, ours, theirs, shapes, scale, records)
    for size in scale.sizes(SIZES, TINY):
        steps(size, CHOICES, scale, records)


Function = Callable[..., tuple[Any, ...]]


def _pieces(tokens: int, width: int, inner: int, heads: int) -> list[tuple[str, tuple[Function, Function, Any]]]:
    """(name, (ours, transformers' own, shapes of what both are given))."""
    import torch
    from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb

    from galore.kernels.ops.fused.norm import rms_norm
    from galore.kernels.ops.fused.rotary import rotate
    from galore.kernels.ops.fused.swiglu import swiglu

    size = width // heads

    def normed(x: Any, weight: Any) -> tuple[Any]:
        norm = LlamaRMSNorm(width, 1e-5)
        del norm.weight
        norm.weight = weight
        wide = x.dtype == torch.float64
        return (weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) if wide else norm(x),)

    def heads_first(function: Any) -> Function:
        def call(q: Any, k: Any, cos: Any, sin: Any) -> tuple[Any, ...]:
            return tuple(function(q.transpose(1, 2), k.transpose(1, 2), cos, sin))

        return call

    turned = ((1, tokens, heads, size),) * 2 + ((1, tokens, size),) * 2
    return [
        ("RMSNorm", (lambda x, w: (rms_norm(x, w, 1e-5),), normed, ((tokens, width), (width,)))),
        (
            "SwiGLU",
            (lambda g, u: (swiglu(g, u),), lambda g, u: (torch.nn.functional.silu(g) * u,), ((tokens, inner),) * 2),
        ),
        ("rotary positions", (heads_first(rotate), heads_first(apply_rotary_pos_emb), turned)),
    ]


def _piece(name: str, ours: Function, theirs: Function, shapes: Any, scale: Scale, records: Records) -> None:
    """Forward and backward: the largest relative error of results and gradients, and the time of both."""
    import torch

    torch.manual_seed(0)
    given = [torch.randn(shape, device=scale.device, dtype=torch.bfloat16) for shape in shapes]
    angles = given[2:]
    upstream = [torch.randn_like(each) for each in ours(*given)]

    def once(function: Function, dtype: Any = torch.bfloat16) -> list[Any]:
        leaves = [each.to(dtype, copy=True).requires_grad_() for each in given[:2]]
        out = function(*leaves, *(each.to(dtype) for each in angles))
        torch.autograd.backward(out, [each.to(dtype) for each in upstream])
        return [*(each.detach() for each in out), *(leaf.grad for leaf in leaves)]

    pairs = zip(once(ours), once(theirs, torch.float64), strict=True)
    error = max(float((mine.double() - exact).norm() / exact.norm()) for mine, exact in pairs)
    records.note(f"{name}: relative error of results and gradients", ok=error <= ERROR, error=error)
    fused, own = (seconds(lambda of=of: once(of), scale) for of in (ours, theirs))  # type: ignore[misc]
    records.note(f"{name} of 7B, both ways", microseconds=1e6 * fused, of_transformers=1e6 * own, ratio=own / fused)
