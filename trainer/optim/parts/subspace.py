"""Where a layer's basis P (a, r) comes from and how it is kept: one small class per kind of subspace."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from galore.kernels.dct import dct_matrix, index_dtype, random_basis, top_columns
from galore.kernels.decompose import Basis
from galore.kernels.family import ProjectorDtype, ProjType
from galore.kernels.reference.operations import is_transposed, orient
from galore.kernels.rules.transport import change_of_basis
from galore.kernels.storage.layout import Compressed, Matrix
from galore.kernels.storage.rounding import mix
from galore.kernels.subspace import (
    gaussian,
    power_basis,
    randomized_basis,
    range_basis,
    seeded_basis,
    svd_basis,
    unit_columns,
)
from galore.trainer.optim.member import Member
from galore.trainer.optim.parts.inner import first_moment
from galore.trainer.optim.parts.refresh import RefreshSchedule
from galore.trainer.optim.parts.storage import ABSMAX, CODES, Kept, keep, matrix, planned


class Subspace:
    """A basis that is found in gradients and kept among the member's tensors.

    `a` is the side of the weight that is projected, `b` the other one, `transposed` how that orients the weight.
    """

    sketchable = True  # whether Y = G Ω is enough to find it

    def __init__(
        self, member: Member, rank: int, schedule: RefreshSchedule, seed: int, clock: Callable[[], int]
    ) -> None:
        shape = member.matrix.shape
        self.member, self.schedule, self.seed, self.clock = member, schedule, seed, clock
        self.transposed = is_transposed(shape, member.group["side"])
        self.a, self.b = (shape[1], shape[0]) if self.transposed else (shape[0], shape[1])
        self.rank = min(rank, self.a, self.b)
        self.fallbacks = 0  # decompositions that failed, for which something else was taken

    @property
    def exists(self) -> bool:
        """Whether there is a basis to project on."""
        return "projector" in self.member.state

    @property
    def redrawn(self) -> bool:
        """Whether the step being accumulated has another basis than the one before, without any refresh."""
        return False

    @property
    def projector(self) -> Tensor:
        """P (a, r) in the dtype of the weight."""
        return self.matrix(self.member.state)

    @property
    def kept(self) -> Matrix:
        """P (a, r) as products read it: codes where it is kept so, else in the dtype of the weight."""
        state = self.member.state
        if ABSMAX in state:
            return Compressed(state[CODES], state[ABSMAX], (self.a, self.rank))
        return self.projector

    @property
    def orthonormal(self) -> bool:
        """Whether P as it is kept is so, up to the rounding of its dtype."""
        return self.kept_dtype in ("float32", "bfloat16")

    @property
    def kept_dtype(self) -> ProjectorDtype:
        chosen: ProjectorDtype | None = self.member.group["projector_dtype"]
        return chosen or ("bfloat16" if self.member.dtype == torch.bfloat16 else "float32")

    def planned(self) -> Kept:
        """What is kept, on `meta`."""
        return planned((self.a, self.rank), self.kept_dtype)

    def matrix(self, kept: Kept) -> Tensor:
        """P (a, r) in the dtype of the weight, from what `of_gradient` or `of_sketch` gave."""
        return matrix(kept, (self.a, self.rank), self.member.dtype)

    def change_to(self, kept: Kept) -> Tensor:
        """C (r, r) = P_newᵀ P_old in fp32, to a new basis as it is kept."""
        return change_of_basis(self.matrix(kept), self.projector)

    def of_gradient(self, grad: Tensor) -> Kept:
        """A new basis, as it is kept, from a whole gradient (m, n)."""
        return self._keep(self._found(lambda: self._decompose(grad)))

    def of_sketch(self, y: Tensor) -> Kept:
        """A new basis, as it is kept, from Y = G Ω (a, r) with Ω of `test_matrix`."""
        return self._keep(self._found(lambda: range_basis(y / y.abs().max().clamp_min(1e-30), self.rank)))

    def test_matrix(self) -> Tensor:
        """Ω (b, r): random at first, afterwards the row space of the first moment, which makes one warm power step."""
        moment = first_moment(self.member)
        rows = None if moment is None else self._found(lambda: range_basis(moment.mT, self.rank))
        return self._random() if rows is None else rows

    def _decompose(self, grad: Tensor) -> Basis:
        raise NotImplementedError

    def _random(self) -> Tensor:
        return gaussian(self.b, self.rank, mix(self.seed, self.clock()), self.member.like)

    def _found(self, decompose: Callable[[], Basis]) -> Tensor | None:
        """P of a decomposition; None where all its ways fail. What falls back is counted, here and nowhere else."""
        try:
            basis = decompose()
        except LinAlgError:
            self.fallbacks += 1
            return None
        self.fallbacks += basis.fell_back
        return basis.p

    def _keep(self, p: Tensor | None) -> Kept:
        """P as it is kept; where none was found, the one that there is goes on, and at first a random one serves."""
        state = self.member.state
        if p is None and self.exists:
            return {name: state[name] for name in (CODES, ABSMAX) if name in state}
        if p is None:
            p = random_basis(self.a, self.rank, mix(self.seed, self.member.index), self.member.like.device)
        return keep(p, self.kept_dtype)


class SvdSubspace(Subspace):
    """The leading singular vectors of the gradient  (GaLore, arXiv 2403.03507)."""

    sketchable = False

    def _decompose(self, grad: Tensor) -> Basis:
        return svd_basis(grad, self.rank, self.transposed)


class RandomizedSubspace(Subspace):
    """A randomized range finder with two power iterations; from a sketch, one warm power step."""

    def _decompose(self, grad: Tensor) -> Basis:
        return randomized_basis(orient(grad, self.transposed), self.rank, self.test_matrix())


class PowerSubspace(Subspace):
    """One warm step of block power iteration, P ← qr(G Gᵀ P); the randomized range finder where there is no P yet."""

    def _decompose(self, grad: Tensor) -> Basis:
        g = orient(grad, self.transposed)
        if not self.exists:
            return randomized_basis(g, self.rank, self._random())
        return power_basis(g, self.projector, self.rank, halfway=unit_columns)


class DctSubspace(Subspace):
    """The columns of the DCT basis that align best with the gradient, kept as r indices  (arXiv 2505.17967)."""

    @property
    def orthonormal(self) -> bool:
        return True

    def planned(self) -> Kept:
        return {CODES: torch.empty(self.rank, dtype=index_dtype(self.a), device="meta")}

    def matrix(self, kept: Kept) -> Tensor:
        return dct_matrix(self.a, kept["projector"], self.member.like)

    def change_to(self, kept: Kept) -> Tensor:
        """Zeros and ones, exactly: Adam would divide a moment of rounding errors alone by its own size."""
        return (kept["projector"][:, None] == self.member.state["projector"]).float()

    def of_gradient(self, grad: Tensor) -> Kept:
        return self.of_sketch(orient(grad, self.transposed))

    def of_sketch(self, y: Tensor) -> Kept:
        return {"projector": top_columns(y, self.rank)}

    def test_matrix(self) -> Tensor:
        """Gaussian: the row norms of Dᵀ G Ω then estimate those of Dᵀ G."""
        return self._random()


class RandomSubspace(Subspace):
    """Gaussian with variance 1/r, drawn from (seed, refresh, layer) whenever it is wanted; nothing is kept."""

    sketchable = False

    @property
    def exists(self) -> bool:
        return True

    @property
    def redrawn(self) -> bool:
        return self.clock() > 0 and self.schedule.due(self.clock())

    @property
    def projector(self) -> Tensor:
        seed = mix(self.seed, self.schedule.last_due(self.clock()), self.member.index)
        return seeded_basis(self.a, self.rank, seed, self.member.like)

    @property
    def orthonormal(self) -> bool:
        return False

    def planned(self) -> Kept:
        return {}


KINDS: dict[ProjType, type[Subspace]] = {
    "svd": SvdSubspace,
    "randomized": RandomizedSubspace,
    "power": PowerSubspace,
    "dct": DctSubspace,
    "random": RandomSubspace,
}
