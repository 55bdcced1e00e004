"""Where a layer's basis P (a, r) comes from: a class per kind of subspace, in a table."""

from __future__ import annotations

import torch
from torch import Tensor

from galore.kernels.dct import dct_matrix, index_dtype, top_columns
from galore.kernels.decompose import Basis
from galore.kernels.family import ProjType
from galore.kernels.storage.rounding import mix
from galore.kernels.subspace import power_basis, randomized_basis, seeded_basis, svd_basis, unit_columns
from galore.trainer.optim.parts.storage import CODES, Projector
from galore.trainer.optim.parts.subspace.base import Subspace
from galore.trainer.optim.parts.subspace.schedule import note_draw


class SvdSubspace(Subspace):
    """The leading singular vectors of the gradient  (GaLore, arXiv 2403.03507)."""

    def _decompose(self, grad: Tensor) -> Basis:
        return svd_basis(grad, self.rank, self.transposed)


class RandomizedSubspace(Subspace):
    """A randomized range finder with two power iterations; from a sketch, one warm power step."""

    warm = True

    def _decompose(self, grad: Tensor) -> Basis:
        return randomized_basis(self.oriented(grad), self.rank, self.test_matrix())


class PowerSubspace(Subspace):
    """One warm step of block power iteration, P ← qr(G Gᵀ P); the randomized range finder where there is no P yet."""

    def _decompose(self, grad: Tensor) -> Basis:
        g = self.oriented(grad)
        if not self.exists:
            return randomized_basis(g, self.rank, self._random())
        return power_basis(g, self.projector, self.rank, halfway=unit_columns)


class DctSubspace(Subspace):
    """The columns of the DCT basis that align best with the gradient, stored as r indices  (arXiv 2505.17967)."""

    @property
    def orthonormal(self) -> bool:
        return True

    def planned(self) -> Projector:
        return {CODES: torch.empty(self.rank, dtype=index_dtype(self.a), device="meta")}

    def matrix(self, basis: Projector) -> Tensor:
        return dct_matrix(self.a, basis[CODES], self.weight.like)

    def change_to(self, basis: Projector) -> Tensor:
        """Zeros and ones, exactly: Adam would divide a moment of rounding errors alone by its own size."""
        return (basis[CODES][:, None] == self.weight.state[CODES]).float()

    def of_gradient(self, grad: Tensor) -> Projector:
        return self.of_sketch(self.oriented(grad))

    def of_sketch(self, y: Tensor) -> Projector:
        return self._kept() if self._is_zero(y) and self.exists else {CODES: top_columns(y, self.rank)}

    def test_matrix(self) -> Tensor:
        """Gaussian: the row norms of Dᵀ G Ω then estimate those of Dᵀ G."""
        return self._random()


class RandomSubspace(Subspace):
    """Gaussian with variance 1/r, drawn from (seed, refresh, layer) whenever it is wanted; nothing is stored."""

    due, drawn = False, True

    @property
    def exists(self) -> bool:
        return True

    def note_draw(self) -> bool:
        return note_draw(self.weight.state, self.schedule, self.clock())

    @property
    def projector(self) -> Tensor:
        seed = mix(self.seed, self.schedule.last_due(self.clock()), self.weight.index)
        return seeded_basis(self.a, self.rank, seed, self.weight.like)

    @property
    def orthonormal(self) -> bool:
        return False

    def planned(self) -> Projector:
        return {}


SUBSPACES: dict[ProjType, type[Subspace]] = {
    "svd": SvdSubspace,
    "randomized": RandomizedSubspace,
    "power": PowerSubspace,
    "dct": DctSubspace,
    "random": RandomSubspace,
}
