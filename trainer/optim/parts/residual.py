"""What an update is made of: a rule that sees the projected sum alone, and one that sees the whole gradient."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from galore.kernels.ops.projection import Dense, project
from galore.kernels.rules.residual import column_squares
from galore.kernels.storage.layout import Matrix
from galore.trainer.optim.parts.inner import Inner
from galore.trainer.optim.parts.refresh import Refresh
from galore.trainer.optim.parts.subspace.base import Subspace


class Terms(NamedTuple):
    """The parts of an update P N + D: P (a, r), N (r, b), and D row by row."""

    p: Matrix | None
    n: Tensor | None
    dense: Dense | None


class ResidualRule:
    """What an update is made of; here P N alone, from the sum of projected gradients."""

    whole = False  # whether it needs the whole summed gradient

    def __init__(self, subspace: Subspace, inner: Inner) -> None:
        self.subspace, self.inner, self.weight = subspace, inner, subspace.weight

    @property
    def samples(self) -> bool:
        """Whether it needs a share of the gradient's columns."""
        return False

    def terms(self, gradients: Refresh, grad_scale: float) -> Terms:
        """The update for grad_scale · what was accumulated, which is consumed; the inner rule takes the step."""
        direction = self.inner.direction(gradients.sum.take().contiguous(), grad_scale, self.weight.dtype)
        return Terms(self.subspace.operand, direction, None)

    def planned(self) -> dict[str, Tensor]:
        """What it adds to the weight's state, on `meta`."""
        return {}

    def inside(self) -> Tensor | None:
        """What of a momentum (a, b) the subspace has, if another one must not lose it."""
        return None

    def take_over(self, before: Tensor) -> None:
        """Keep what another basis has lost of `before`, which `inside` gave."""

    @property
    def factor(self) -> float:
        """c on what comes from outside the subspace."""
        return float(self.weight.group["residual_scale"])

    @property
    def complete(self) -> bool:
        """Whether P spans everything, so that what is left over is rounding noise."""
        return self.subspace.rank == self.subspace.a


class WholeGradient(ResidualRule):
    """A rule that sees the whole gradient beside the direction N of its projection R."""

    whole = True

    def _kept(self, name: str, like: Tensor) -> Tensor:
        """An fp32 tensor of the weight's state by the name that `planned` has for it, zeros at first."""
        state = self.weight.state
        if name not in state:
            state[name] = torch.zeros(self.planned()[name].shape, dtype=torch.float32, device=like.device)
        return state[name]

    def _squares(self, whole: Tensor, grad_scale: float) -> Tensor:
        """‖G_j‖² (b,)."""
        return column_squares(self.subspace.oriented(whole)) * grad_scale**2

    def _scaled(self, whole: Tensor, scale: Tensor) -> Dense:
        """Rows of scale∘G; scale () or (b,), which are the rows of a transposed weight and else its columns."""
        if scale.ndim == 1 and self.subspace.transposed:
            return lambda first, last: whole[first:last].float() * scale[first:last, None]
        return lambda first, last: whole[first:last].float() * scale

    def terms(self, gradients: Refresh, grad_scale: float) -> Terms:
        whole, p = gradients.whole.take(), self.subspace.projector
        r = project(p, self.subspace.oriented(whole)).float().mul_(grad_scale).contiguous()
        n = self.inner.direction(r, 1.0, torch.float32)
        return self.with_residual(whole, p, r, n, grad_scale)

    def with_residual(self, whole: Tensor, p: Tensor, r: Tensor, n: Tensor, grad_scale: float) -> Terms:
        """The update from G = grad_scale · `whole` (m, n), P (a, r), R = PᵀG and N (r, b)."""
        raise NotImplementedError
