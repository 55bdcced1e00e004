"""What a low-rank update adds from outside its subspace: Fira's residual, APOLLO's scaled gradient, FRUGAL's sign,
columns of one norm, Alice's compensation.

Everything here is for the oriented (a, b) layout, a ≤ b: G (a, b), P (a, r), R = PᵀG (r, b), and the direction N (r,
b), which carries the minus sign. "Column" is one of the b indices of the longer side. Fira and APOLLO reduce to one
number per column, so that the update P N' + scale∘G needs no further matrix of the weight's size.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from galore.kernels.storage.rounding import block_elements

Per = Literal["channel", "tensor"]
GAMMA = 1.01  # largest growth of the added norm from one step to the next, in both papers
FLOOR = 1e-6  # of ‖G_j‖², below which ‖(G - P R)_j‖² is rounding noise of fp32
SMALLEST = 2.0**-60  # norm of what counts as zeros: squares of less lose their digits in fp32
MINI_FACTOR = 128**0.5  # of APOLLO-Mini; channel-wise APOLLO has 1


def column_squares(g: Tensor) -> Tensor:
    """‖G_j‖² (b,) in fp32 of g (a, b), fp32 or bf16 and either layout, a block at a time: no fp32 copy of g."""
    if g.dtype == torch.float32:
        squares: Tensor = torch.linalg.vector_norm(g, dim=0).square_()
        return squares
    by_rows = g.stride(0) >= g.stride(1)
    height = max(1, block_elements(g) // max(1, g.shape[1 if by_rows else 0]))
    parts = [block.float().square_().sum(0) for block in torch.split(g, height, dim=0 if by_rows else 1)]
    return torch.stack(parts).sum(0) if by_rows else torch.cat(parts)


def noise_floor(*dtypes: torch.dtype) -> float:
    """The share of ‖G_j‖² below which ‖(G - P R)_j‖² is rounding noise where P and G are of `dtypes`."""
    return max(FLOOR, *(torch.finfo(each).eps for each in dtypes))


def norm_ratio(n: Tensor, r: Tensor, per: Per = "channel", eps: float = 0.0) -> Tensor:
    """‖N_j‖ / (‖R_j‖ + ε) per column (b,), or of the whole tensors (); 0 where R counts as 0. n, r: fp32 (r, b)."""
    dim = 0 if per == "channel" else None
    above, below = (torch.linalg.vector_norm(x, dim=dim) for x in (n, r))
    return torch.where(below > SMALLEST, above / (below + eps), 0.0)


def residual_squares(g_squares: Tensor, r: Tensor, gram: Tensor | None = None, alpha: float = 1.0) -> Tensor:
    """‖G_j - αP R_j‖² (b,) from ‖G_j‖² (b,) alone: ‖G_j‖² - 2α‖R_j‖² + α²R_jᵀPᵀP R_j, since R = PᵀG.

    Args:
        gram: PᵀP (r, r) where P is not orthonormal, as one of few bits; None takes the identity.
    """
    r_squares = r.square().sum(0)
    lifted = r_squares if gram is None else (r * (gram.float() @ r)).sum(0)
    return (g_squares - 2 * alpha * r_squares + alpha**2 * lifted).clamp_min_(0.0)


def growth_limit_(norm: Tensor, previous: Tensor) -> Tensor:
    """Factor () ≤ 1 that keeps ‖S_t‖ ≤ γ‖S_{t-1}‖ (Fira's norm-growth limiter); the limited norm goes into `previous`.

    Args:
        norm: ‖S_t‖, fp32 scalar tensor.
        previous: ‖S_{t-1}‖ after its own limit, fp32 scalar tensor, in place; 0 before the first step, which is free. A
            step of norm 0 leaves it, or nothing could ever grow again.
    """
    allowed = GAMMA * previous
    factor = torch.where((previous > 0) & (norm > allowed), allowed / norm, 1.0)
    previous.copy_(torch.where(norm > 0, norm * factor, previous))
    return factor


def fira_terms(
    r: Tensor,
    n: Tensor,
    *,
    g_squares: Tensor | None = None,
    previous: Tensor | None = None,
    gram: Tensor | None = None,
    correction: float = 1.0,
    reference_alpha: float | None = None,
    factor: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """(N', s) with P N' + s∘G = P N - c' S for Fira's S = φ∘(G - P R), φ_j = ‖N_j‖/‖R_j‖ (Chen et al., 2410.01623).

        N' = N + cφ∘R  (r, b),   s = -cφ  (b,),   c = min(1, γ‖S_{t-1}‖ / ‖S_t‖)

    Args:
        r, n: fp32 (r, b); n carries the minus sign, and so does s.
        g_squares: `column_squares(G)`; with `previous`, the state of `growth_limit_`, it makes the limiter. Without: c
            = 1.
        gram: see `residual_squares`.
        correction: by which the official code compares smaller norms: Adam's √(1-β₂ᵗ)/(1-β₁ᵗ), which it applies last.
        reference_alpha: α of the official code, whose update is αP N - φ∘(G - αP R) with ε = 1e-8 beside ‖R_j‖. The
            caller multiplies by α once for both terms, so s comes divided by it. None: the paper.
        factor: c' on S, after its limit.
    """
    alpha = 1.0 if reference_alpha is None else reference_alpha
    scale = norm_ratio(n, r, eps=0.0 if reference_alpha is None else 1e-8)
    if previous is not None:
        assert g_squares is not None, "the limiter needs the gradient's column norms"
        norm = _scaled_norm(scale, residual_squares(g_squares, r, gram, alpha))
        scale = scale * growth_limit_(norm / correction, previous)
    scale = factor * scale
    return torch.addcmul(n, r, scale), scale / -alpha


def apollo_scale(
    r: Tensor,
    n: Tensor,
    *,
    per: Per = "channel",
    g_squares: Tensor | None = None,
    previous: Tensor | None = None,
    correction: float = 1.0,
) -> Tensor:
    """s with update s∘G, s_j = -c·f·‖N_j‖/‖R_j‖ (Zhu et al. 2024, APOLLO, arXiv 2412.05270, algorithm 1); no P N.

    f is 1 for channels and √128 for tensors (the official package's `scale` is f²).

    Args:
        r, n: fp32 (r, b), R = PᵀG with a random P of variance 1/r.
        per: `channel`: s (b,), one per column of the longer side, as in the paper; `tensor`: s (), APOLLO-Mini's with r
            = 1.
        g_squares, previous, correction: the norm-growth limiter c, as in `fira_terms`, on ‖S‖ before f.
    """
    scale = norm_ratio(n, r, per)
    if previous is not None:
        assert g_squares is not None, "the limiter needs the gradient's column norms"
        scale = scale * growth_limit_(_scaled_norm(scale, g_squares) / correction, previous)
    return scale * -(1.0 if per == "channel" else MINI_FACTOR)


def column_terms(
    r: Tensor,
    n: Tensor,
    *,
    g_squares: Tensor,
    rows: int,
    factor: float,
    gram: Tensor | None = None,
    floor: float = FLOOR,
    mean: Tensor | None = None,
    beta: float = 0.0,
    previous: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """(N', s) with P N' + s∘G = P N - c S for S = √(a-r) (G - P R)∘p^(-1/2), p_j = ‖(G - P R)_j‖² or its average.

    With `mean` and `previous` it is Alice's compensation (Gong et al. 2025, arXiv 2502.07752), whose growth is limited;
    without them every column has norm √(a-r). A column whose p counts as 0 adds nothing.

    Args:
        r, n: fp32 (r, b); n carries the minus sign, and so does s.
        rows: a; factor: c; gram: see `residual_squares`; floor: see `noise_floor`.
        mean: p of the steps before, in place, decayed by `beta`.
        previous: see `growth_limit_`.
    """
    squares = torch.maximum(residual_squares(g_squares, r, gram), floor * g_squares)
    p = squares if mean is None else mean.lerp_(squares, 1 - beta)
    left = rows - r.shape[0]
    scale = torch.where(p > left * SMALLEST**2, (left / p).sqrt(), 0.0)
    if previous is not None:
        scale = scale * growth_limit_(_scaled_norm(scale, squares), previous)
    scale = factor * scale
    return torch.addcmul(n, r, scale), -scale


def frugal_block(g_rows: Tensor, p_rows: Tensor, r: Tensor, factor: float = 1.0) -> Tensor:
    """-c sign(G - P R) in fp32 for a block of rows (Zmushko et al. 2024, FRUGAL, arXiv 2411.07837).

    Args:
        factor: c.
        g_rows: (k, b) rows of the oriented gradient, any dtype; p_rows: the same rows (k, r) of P; r: (r, b). For rows
            of a transposed weight pass the rows of (Rᵀ, Pᵀ) instead.

    At full rank G - P R is rounding noise, whose sign is not small: leave this term out there.
    """
    residual = torch.addmm(g_rows.float(), p_rows.float(), r.float(), alpha=-1)
    return residual.sign_().mul_(-factor)


def _scaled_norm(scale: Tensor, squares: Tensor) -> Tensor:
    """‖scale∘X‖ () in fp32 from squared column norms of X, summed in float64: a scale may be as large as 1/‖R_j‖."""
    return (scale.double().square() * squares.double()).sum().sqrt().float()
