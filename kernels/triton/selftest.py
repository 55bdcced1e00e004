"""One small problem per card and process, before its kernels are trusted with weights: do they agree with torch?"""

from __future__ import annotations

import functools

import torch

from galore.kernels.rules.adam import AdamRule
from galore.kernels.storage.moments import Moments
from galore.kernels.triton import direct
from galore.kernels.triton.adam import adam_plan
from galore.kernels.triton.fused import softmax_plan
from galore.kernels.triton.launch import run
from galore.kernels.triton.lift import lift_plan
from galore.kernels.triton.tile import Tile

TOLERANCE = 1e-2  # of bf16 results; a kernel that is wrong is wrong by far more


@functools.cache
def failure(index: int) -> str:
    """Why the kernels are not trusted on CUDA device `index`, "" if they are.

    Twice: the first launch of each goes Triton's way, the second finds what the first compiled. Where only that one is
    wrong, all launches go Triton's way.
    """
    device = torch.device("cuda", index)
    if reason := _reason(device):
        return reason
    if again := _reason(device):
        direct.distrust(f"launched without Triton's way {again}")
    return ""


def _reason(device: torch.device) -> str:
    try:
        return check(device)
    except Exception as error:  # a compiler, driver or launch that fails in whatever way is a reason not to use it
        return (
            f"its kernels do not run here: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        )


def check(device: torch.device) -> str:
    """Adam, a lift into bf16, and the softmax of a loss, against torch in fp32."""
    generator = torch.Generator().manual_seed(0)
    p, n, w = (
        torch.randn(*shape, generator=generator, dtype=torch.float32, device="cpu").to(device)
        for shape in ((64, 16), (16, 96), (64, 96))
    )
    lifted = w.bfloat16()
    run(lift_plan(lifted, p.bfloat16(), n.bfloat16(), Tile(32, 64, 16, 4, 2), alpha=-0.1))
    wanted = w.bfloat16().float() - 0.1 * (p.bfloat16().float() @ n.bfloat16().float())
    if not _near(lifted, wanted):
        return "its lift_update disagrees with torch"
    out, moments = torch.zeros_like(n), Moments(torch.zeros_like(n), torch.zeros_like(n))
    run(adam_plan(out, n, moments, AdamRule(), step=1))
    if not _near(out, -n.sign()):
        return "its adam disagrees with torch"
    return "" if _softmax_agrees(w) else "its softmax disagrees with torch"


def _softmax_agrees(logits: torch.Tensor) -> bool:
    rows, columns = logits.shape
    targets = torch.arange(rows, device=logits.device)
    losses, lse = (torch.zeros(rows, device=logits.device, dtype=torch.float32) for _ in range(2))
    wanted = torch.softmax(logits, 1) - torch.nn.functional.one_hot(targets, columns)
    sums = logits.logsumexp(1)
    expected = sums - logits.gather(1, targets[:, None]).squeeze(1)
    run(softmax_plan(logits, targets, losses, lse, 0.0))
    return _near(logits, wanted) and _near(losses, expected) and _near(lse, sums)


def _near(x: torch.Tensor, wanted: torch.Tensor) -> bool:
    return bool((x.float() - wanted).norm() <= TOLERANCE * wanted.norm())
