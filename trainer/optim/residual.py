"""A projected parameter that also takes what its subspace leaves out of the gradient: Fira, APOLLO, FRUGAL.

All of them need the whole summed gradient when the step comes, so it is kept (m, n) in the accumulators' precision, and
a refresh sees it as `summed` does. P N + D is formed in row blocks, without a further matrix of the weight's size:

    fira         P N + φ∘(G - P R), φ_j = ‖N_j‖/‖R_j‖, growth of the added norm limited    (arXiv 2410.01623)
    apollo       s∘G, s_j = ‖N_j‖/‖R_j‖, growth limited; no P N                            (arXiv 2412.05270)
    apollo-mini  the same with one s for the whole matrix, times √128
    frugal       P N + sign(G - P R)                                                       (arXiv 2411.07837)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from galore.kernels.family import Residual
from galore.kernels.ops.projection import Dense, project
from galore.kernels.rules.residual import Per, apollo_scale, column_squares, fira_terms, frugal_block
from galore.trainer.optim.member import as_matrix
from galore.trainer.optim.projected import ProjectedSlot
from galore.trainer.optim.slot import Update

LIMITED = ("fira", "apollo", "apollo-mini")


class ResidualSlot(ProjectedSlot):
    """`residual` of its group says what is added; the limited ones keep `residual_norm`, one fp32 number."""

    @property
    def kind(self) -> Residual:
        kind: Residual = self.group["residual"]
        return kind

    @property
    def has_gradient(self) -> bool:
        return self.whole.value is not None

    @property
    def wants_sketch_pass(self) -> bool:
        return False

    @property
    def takes_factors(self) -> bool:
        return False

    def receive(self, grad: Tensor) -> None:
        self.received += 1
        self.whole.add(as_matrix(grad))

    def complete(self) -> None:
        if self.whole.value is None or not self.due or self.pending is not None:
            return
        if not bool(torch.isfinite(self.whole.value).all()):
            self.poisoned = True
            return
        self.pending = self.subspace.of_gradient(self.whole.value)

    def squared_norm(self) -> Tensor:
        assert self.whole.value is not None
        norm: Tensor = torch.linalg.vector_norm(self.whole.value, dtype=torch.float32)
        return norm.double().square()

    def apply(self, update: Update) -> None:
        self._change_basis()
        whole, p = self.whole.take(), self.projector
        r = project(p, self._oriented(whole)).float().mul_(update.grad_scale).contiguous()
        n = self.inner.direction(r, 1.0, torch.float32)
        self._lift(update, *self._terms(whole, p, r, n, update.grad_scale))
        self.discard()

    def planned_state(self) -> dict[str, Tensor]:
        norm = {"residual_norm": torch.empty((), dtype=torch.float32, device="meta")} if self.kind in LIMITED else {}
        return super().planned_state() | norm

    def _terms(
        self, whole: Tensor, p: Tensor, r: Tensor, n: Tensor, grad_scale: float
    ) -> tuple[Tensor | None, Tensor | None, Dense | None]:
        """(P, N', D) with the update P N' + D."""
        if self.kind == "frugal":
            return p, n, self._signs(whole, p, r, grad_scale)
        terms: dict[str, Any] = {
            "g_squares": column_squares(self._oriented(whole)) * grad_scale**2,
            "previous": self._previous_norm(r.device),
            "correction": self._correction,
        }
        if self.kind == "fira":
            gram = None if self.subspace.orthonormal else p.float().mT @ p.float()
            alpha = {"reference_alpha": self.group["scale"]} if self.group["convention"] == "reference" else {}
            n, scale = fira_terms(r, n, gram=gram, **terms, **alpha)
            return p, n, self._scaled(whole, scale * grad_scale)
        per: Per = "channel" if self.kind == "apollo" else "tensor"
        return None, None, self._scaled(whole, apollo_scale(r, n, per=per, **terms) * grad_scale)

    @property
    def _correction(self) -> float:
        """What the official codes multiply with only after they have limited the growth of a norm."""
        if self.group["convention"] != "reference":
            return 1.0
        (beta1, beta2), step = self.group["betas"], int(self.state["step"])
        return float((1 - beta2**step) ** 0.5 / (1 - beta1**step))

    def _previous_norm(self, device: torch.device) -> Tensor:
        if "residual_norm" not in self.state:
            self.state["residual_norm"] = torch.zeros((), dtype=torch.float32, device=device)
        return self.state["residual_norm"]

    def _scaled(self, whole: Tensor, scale: Tensor) -> Dense:
        """Rows of scale∘G; scale () or (b,), which are the rows of a transposed weight and else its columns."""
        if scale.ndim == 1 and self.transposed:
            return lambda first, last: whole[first:last].float() * scale[first:last, None]
        return lambda first, last: whole[first:last].float() * scale

    def _signs(self, whole: Tensor, p: Tensor, r: Tensor, grad_scale: float) -> Dense | None:
        """Rows of -sign(G - P R); none at full rank, where that is the sign of rounding noise."""
        if self.rank == self.subspace.a:
            return None
        r = r / grad_scale
        left, right = (r.mT, p.mT) if self.transposed else (p, r)
        return lambda first, last: frugal_block(whole[first:last], left[first:last], right)
