"""What an update takes of a gradient, inside the subspace and outside of it: a class per rule, in a table.

All but `none` and `sampled` need the whole summed gradient G (m, n) when the step comes; a refresh sees that, too.
P N + D is formed in row blocks, without a further matrix of the weight's size:

    none         P N
    sampled      P N, but in a share of the columns, by turns, Muon of G itself; layers are sampled in arXiv 2510.17802
    fira         P N + φ∘(G - P R), φ_j = ‖N_j‖/‖R_j‖, growth of the added norm limited    (arXiv 2410.01623)
    apollo       s∘G, s_j = ‖N_j‖/‖R_j‖, growth limited; no P N                            (arXiv 2412.05270)
    apollo-mini  the same with one s for the whole matrix, times √128
    frugal       P N + c sign(G - P R)                                                     (arXiv 2411.07837)
    columns      P N + c S, each column of G - P R scaled to the norm √(a-r)
    alice        the same with an average of the norms, growth limited                    (arXiv 2502.07752)
    orthogonal   P N + c 0.2 √max(m, n) Newton-Schulz(G - P R), as of a step of Muon without momentum
    joint        the inner rule's update from the momentum P X + c (G - P R), X that of R: Muon with a low-rank momentum
    joint-4bit   the same with the momentum of G - P R, kept in 4 bits, in its place: no basis loses what came before it
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from galore.kernels.family import Residual
from galore.kernels.ops.projection import Dense, project
from galore.kernels.rules.orthogonalize import momentum_, orthogonalize, rms_scale
from galore.kernels.rules.residual import (
    Per,
    apollo_scale,
    column_terms,
    fira_terms,
    frugal_block,
    noise_floor,
)
from galore.trainer.optim.parts.inner import MuonInner
from galore.trainer.optim.parts.refresh import Refresh, sampled_width
from galore.trainer.optim.parts.residual import ResidualRule, Terms, WholeGradient
from galore.trainer.optim.parts.storage import new_state, read_moment, write_moment

OUTSIDE = "outside"  # the name, in a weight's state, of the momentum that a subspace has not
TURN = "turn"  # and of the turn of sampled columns that it is of


class Sampled(ResidualRule):
    """Muon in the subspace, and in the columns whose turn it is Muon at full rank, from a momentum of zeros.

    GUM samples whole layers, at random, and gives them G - P R.
    """

    @property
    def samples(self) -> bool:
        return not self.complete

    def planned(self) -> dict[str, Tensor]:
        return self._new(torch.device("meta")) if self.samples else {}

    def terms(self, gradients: Refresh, grad_scale: float) -> Terms:
        sampled = gradients.sampled
        if sampled is None:
            return super().terms(gradients, grad_scale)
        columns = sampled.block
        found = self._at_full_rank(sampled.sum.take().float() * grad_scale, sampled.turn)
        p, n, _ = super().terms(gradients, grad_scale)
        assert n is not None
        n[:, columns] = 0.0
        return Terms(p, n, self._rows(found, columns))

    def _at_full_rank(self, gradient: Tensor, turn: int) -> Tensor:
        """The update of sampled columns from their `gradient` (a, k) in fp32."""
        assert isinstance(self.inner, MuonInner)
        state, rule = self.weight.state, self.inner.rule
        if OUTSIDE not in state:
            state.update(self._new(gradient.device))
        held = read_moment(state, OUTSIDE)
        if int(state[TURN]) != turn:
            held.zero_()
            state[TURN].fill_(turn)
        look = momentum_(held, gradient, rule.beta, rule.nesterov)
        write_moment(state, OUTSIDE, held)
        return self.inner.update(look).mul_(self.factor)

    def _rows(self, found: Tensor, columns: slice) -> Dense:
        """Rows of the weight (m, n) that are `found` (a, k) in the oriented columns, and zeros elsewhere."""
        n = self.weight.matrix.shape[1]

        def rows(first: int, last: int) -> Tensor:
            block = found.new_zeros(last - first, n)
            if not self.subspace.transposed:
                block[:, columns] = found[first:last]
            elif (start := max(first, columns.start)) < (stop := min(last, columns.stop)):
                block[start - first : stop - first] = found[:, start - columns.start : stop - columns.start].mT
            return block

        return rows

    def _new(self, device: torch.device) -> dict[str, Tensor]:
        shape = torch.Size((self.subspace.a, sampled_width(self.weight.group["sampled_share"], self.subspace.b)))
        turn = torch.zeros((), dtype=torch.int64, device="meta" if device.type == "meta" else "cpu")
        return new_state(OUTSIDE, shape, self.inner.state_dtype, device) | {TURN: turn}


class Frugal(WholeGradient):
    """FRUGAL: the sign of what is left over."""

    def with_residual(self, whole: Tensor, p: Tensor, r: Tensor, n: Tensor, grad_scale: float) -> Terms:
        return Terms(p, n, self._signs(whole, p, r, grad_scale))

    def _signs(self, whole: Tensor, p: Tensor, r: Tensor, grad_scale: float) -> Dense | None:
        """Rows of -c sign(G - P R); none at full rank, where that is the sign of rounding noise."""
        if self.complete:
            return None
        r, factor = r / grad_scale, self.factor
        left, right = (r.mT, p.mT) if self.subspace.transposed else (p, r)
        return lambda first, last: frugal_block(whole[first:last], left[first:last], right, factor)


class Columns(WholeGradient):
    """What is left over, every column of one norm."""

    def with_residual(self, whole: Tensor, p: Tensor, r: Tensor, n: Tensor, grad_scale: float) -> Terms:
        if self.complete:
            return Terms(p, n, None)
        squares = self._squares(whole, grad_scale)
        floor, kept = noise_floor(whole.dtype, p.dtype), self._averaged(squares)
        n, scale = column_terms(
            r,
            n,
            g_squares=squares,
            rows=self.subspace.a,
            factor=self.factor,
            gram=self.subspace.gram,
            floor=floor,
            **kept,
        )
        return Terms(p, n, self._scaled(whole, scale * grad_scale))

    def _averaged(self, squares: Tensor) -> dict[str, Any]:
        """What `column_terms` asks for to average the norms over the steps."""
        return {}


class Alice(Columns):
    """Alice's compensation: the norms averaged over the steps, and the growth of what is added limited."""

    def planned(self) -> dict[str, Tensor]:
        if self.complete:
            return {}
        shapes = {"residual_squares": (self.subspace.b,), "residual_norm": ()}
        return {name: torch.empty(shape, dtype=torch.float32, device="meta") for name, shape in shapes.items()}

    def _averaged(self, squares: Tensor) -> dict[str, Any]:
        names = {"mean": "residual_squares", "previous": "residual_norm"}
        kept = {argument: self._kept(name, squares) for argument, name in names.items()}
        return {**kept, "beta": self.weight.group["betas"][0]}


class Orthogonal(WholeGradient):
    """What is left over, orthogonalized as a step of Muon without momentum."""

    def with_residual(self, whole: Tensor, p: Tensor, r: Tensor, n: Tensor, grad_scale: float) -> Terms:
        if self.complete:
            return Terms(p, n, None)
        left = torch.addmm(self.subspace.oriented(whole).float(), p.float(), r, beta=grad_scale, alpha=-1)
        found = orthogonalize(left).mul_(-self.factor * rms_scale(*left.shape))
        found = found.mT if self.subspace.transposed else found
        return Terms(p, n, lambda first, last: found[first:last])


class Joint(WholeGradient):
    """Muon, or NorMuon, with the momentum of the subspace alone, orthogonalized together with what is left over."""

    def terms(self, gradients: Refresh, grad_scale: float) -> Terms:
        whole, p = self.subspace.oriented(gradients.whole.take()), self.subspace.projector
        r = project(p, whole).float().mul_(grad_scale).contiguous()
        assert isinstance(self.inner, MuonInner)
        mixed = self._mixed(self.inner, whole, p.float(), r, grad_scale)
        found = self.inner.update(mixed.mT if self.subspace.transposed else mixed)
        return Terms(None, None, lambda first, last: found[first:last])

    def _mixed(self, inner: MuonInner, whole: Tensor, p: Tensor, r: Tensor, grad_scale: float) -> Tensor:
        """The momentum (a, b) to orthogonalize, from G = grad_scale · `whole` (a, b), P (a, r) and R (r, b) in fp32."""
        x, outside = inner.momentum(r), 0.0 if self.complete else self.factor
        return torch.addmm(whole.float(), p, x - outside * r, beta=outside * grad_scale)


class JointInFourBits(Joint):
    """Muon, or NorMuon, with its whole momentum P X + E: X as the inner rule stores it, E, what is outside, in 4 bits.

    Both parts are averaged alike, so that the sum is the momentum whatever P is; where P turns, E takes over what P X
    loses.
    """

    def planned(self) -> dict[str, Tensor]:
        return {} if self.complete else self._new(torch.device("meta"))

    def _mixed(self, inner: MuonInner, whole: Tensor, p: Tensor, r: Tensor, grad_scale: float) -> Tensor:
        if self.complete:
            return super()._mixed(inner, whole, p, r, grad_scale)
        if OUTSIDE not in self.weight.state:
            self.weight.state.update(self._new(whole.device))
        left = torch.addmm(whole.float(), p, r, beta=grad_scale, alpha=-1)
        held = self._read()
        look = momentum_(held, left, inner.rule.beta, inner.rule.nesterov)
        self._write(held)
        return torch.addmm(look, p, inner.momentum(r), beta=self.factor, out=look)

    def inside(self) -> Tensor | None:
        return self._px() if OUTSIDE in self.weight.state else None

    def take_over(self, before: Tensor) -> None:
        before = before + self._read()
        self._write(before.sub_(self._px()))

    def _px(self) -> Tensor:
        """P X (a, b) in fp32."""
        return self.subspace.projector.float() @ read_moment(self.weight.state, "exp_avg")

    @property
    def _along_a(self) -> bool:
        """Whether rows of E are stored along a: two numbers of a row share a byte, and b is odd."""
        return self.subspace.b % 2 == 1

    def _new(self, device: torch.device) -> dict[str, Tensor]:
        shape = (self.subspace.b, self.subspace.a) if self._along_a else (self.subspace.a, self.subspace.b)
        return new_state(OUTSIDE, torch.Size(shape), "4bit", device)

    def _read(self) -> Tensor:
        """E (a, b) in fp32."""
        found = read_moment(self.weight.state, OUTSIDE)
        return found.mT if self._along_a else found

    def _write(self, e: Tensor) -> None:
        write_moment(self.weight.state, OUTSIDE, e.mT if self._along_a else e)


class Limited(WholeGradient):
    """A rule that adds scale∘G and limits how its norm grows; the last norm is an fp32 number of the weight's state."""

    def planned(self) -> dict[str, Tensor]:
        return {"residual_norm": torch.empty((), dtype=torch.float32, device="meta")}

    def _limits(self, whole: Tensor, grad_scale: float) -> dict[str, Any]:
        """What the limiter of `kernels.rules.residual` asks for."""
        return {
            "g_squares": self._squares(whole, grad_scale),
            "previous": self._kept("residual_norm", whole),
            "correction": self._correction,
        }

    @property
    def _correction(self) -> float:
        """What the official codes multiply with only after they have limited the growth of a norm."""
        if not self.weight.in_reference_order:
            return 1.0
        (beta1, beta2), step = self.weight.group["betas"], self.inner.step
        return float((1 - beta2**step) ** 0.5 / (1 - beta1**step))


class Fira(Limited):
    """Fira: what is left over, each column scaled as the inner rule scales its projection."""

    def with_residual(self, whole: Tensor, p: Tensor, r: Tensor, n: Tensor, grad_scale: float) -> Terms:
        limits = self._limits(whole, grad_scale)
        alpha = {"reference_alpha": self.weight.group["scale"]} if self.weight.in_reference_order else {}
        n, scale = fira_terms(r, n, gram=self.subspace.gram, factor=self.factor, **limits, **alpha)
        return Terms(p, n, self._scaled(whole, scale * grad_scale))


class Apollo(Limited):
    """APOLLO: the gradient itself, each column scaled as the inner rule scales its projection."""

    per: Per = "channel"

    def with_residual(self, whole: Tensor, p: Tensor, r: Tensor, n: Tensor, grad_scale: float) -> Terms:
        scale = apollo_scale(r, n, per=self.per, **self._limits(whole, grad_scale))
        return Terms(None, None, self._scaled(whole, scale * grad_scale))


class ApolloMini(Apollo):
    """APOLLO with one scale for the whole matrix."""

    per = "tensor"


RESIDUALS: dict[Residual, type[ResidualRule]] = {
    "none": ResidualRule,
    "sampled": Sampled,
    "fira": Fira,
    "apollo": Apollo,
    "apollo-mini": ApolloMini,
    "frugal": Frugal,
    "columns": Columns,
    "alice": Alice,
    "orthogonal": Orthogonal,
    "joint": Joint,
    "joint-4bit": JointInFourBits,
}
