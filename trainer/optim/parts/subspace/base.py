"""A layer's basis P (a, r): when another one is due, how it is stored, and what is done with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from galore.kernels.dct import random_basis
from galore.kernels.decompose import Basis
from galore.kernels.family import ProjectorDtype
from galore.kernels.linear import Factors, Pieces
from galore.kernels.ops.projection import project
from galore.kernels.reference.operations import is_transposed, orient
from galore.kernels.rules.transport import change_of_basis
from galore.kernels.span import span
from galore.kernels.storage.layout import Compressed, Matrix
from galore.kernels.storage.rounding import mix
from galore.kernels.subspace import (
    gaussian,
    overlap,
    range_basis,
    switched_basis,
)
from galore.trainer.optim.parts.shards import Shard
from galore.trainer.optim.parts.storage import (
    ABSMAX,
    CODES,
    PROJECTOR_FORMATS,
    Projector,
    ProjectorFormat,
    decode,
    read_moment,
)
from galore.trainer.optim.parts.subspace.schedule import RefreshSchedule, may_skip, settle
from galore.trainer.optim.parts.weight import Weight, as_matrix


class Subspace:
    """A basis that is found in gradients and stored among the weight's tensors.

    `a` is the side of the weight that is projected, `b` the other one, `transposed` how that orients the weight.
    """

    def __init__(
        self, weight: Weight, rank: int, schedule: RefreshSchedule, seed: int, clock: Callable[[], int]
    ) -> None:
        shape = weight.shape
        self.weight, self.schedule, self.seed, self.clock = weight, schedule, seed, clock
        self.transposed = is_transposed(shape, weight.group["side"])
        self.a, self.b = (shape[1], shape[0]) if self.transposed else (shape[0], shape[1])
        self.rank = min(rank, self.a, self.b)
        self._joined: Tensor | None = None
        self.fallbacks = 0  # decompositions that failed, for which something else was taken

    @property
    def columns(self) -> Shard | None:
        """Which of the b columns of R are this rank's; None is all of them."""
        shard = self.weight.shard
        return None if shard is None else shard.along(1, self.b)

    @property
    def held(self) -> int:
        """How many of the b columns are here."""
        return self.b if self.columns is None else self.columns.stop - self.columns.start

    drawn = False  # whether a basis is a function of its seed alone
    warm = False  # whether that of a gradient begins with the row space of the first moment

    @property
    def exists(self) -> bool:
        """Whether there is a basis to project on."""
        return CODES in self.weight.state

    @property
    def due(self) -> bool:
        """Whether the step being accumulated finds another basis; due until there is a gradient to find it in."""
        step, state = self.clock(), self.weight.state
        return CODES not in state or (self.schedule.due(step) and not may_skip(state, step))

    def note_draw(self) -> bool:
        """Note the basis of the step that is taken; whether the weight's last one had another, without any refresh."""
        return False

    @property
    def projector(self) -> Tensor:
        """P (a, r) in the dtype of the weight."""
        return self.matrix(self.weight.state)

    @property
    def operand(self) -> Matrix:
        """P (a, r) as products read it: codes where it is stored so, else in the dtype of the weight."""
        state = self.weight.state
        if ABSMAX in state:
            return Compressed(state[CODES], state[ABSMAX], (self.a, self.rank))
        return self.projector

    @property
    def format(self) -> ProjectorFormat:
        """How a basis that is found is stored."""
        chosen: ProjectorDtype | None = self.weight.group["projector_dtype"]
        return PROJECTOR_FORMATS[chosen or ("bfloat16" if self.weight.dtype == torch.bfloat16 else "float32")]

    @property
    def orthonormal(self) -> bool:
        """Whether P as it is stored is so, up to the rounding of its dtype."""
        return self.format.bits is None

    def planned(self) -> Projector:
        """What is stored, on `meta`."""
        return self.format.planned((self.a, self.rank))

    def oriented(self, grad: Tensor) -> Tensor:
        """A gradient of the weight's own shape as (a, b)."""
        return orient(as_matrix(grad), self.transposed)

    @property
    def gram(self) -> Tensor | None:
        """PᵀP in fp32 where P is not orthonormal."""
        p = self.projector
        return None if self.orthonormal else p.float().mT @ p.float()

    def project(self, grad: Tensor | Factors | Pieces, basis: Projector | None = None) -> Tensor:
        """R (r, b) = Pᵀ G on the basis that there is, or on another `basis`."""
        if not isinstance(grad, Tensor):
            return grad.project(self.projector if basis is None else self.matrix(basis))
        return project(self.operand if basis is None else self.matrix(basis), self.oriented(grad))

    def sketch(self, grad: Tensor | Factors | Pieces, omega: Tensor) -> Tensor:
        """Y (a, r) = G Ω in fp32."""
        if not isinstance(grad, Tensor):
            return grad.sketch(omega).float()
        g = self.oriented(grad)
        return (g @ omega.to(g.dtype)).float()

    def part(self, grad: Tensor | Factors | Pieces, columns: slice) -> Tensor:
        """Some columns (a, k) of G, a tensor of their own."""
        if not isinstance(grad, Tensor):
            return grad.part(columns)
        return self.oriented(grad)[:, columns].clone(memory_format=torch.contiguous_format)

    def matrix(self, basis: Projector) -> Tensor:
        """P (a, r) in the dtype of the weight, from what `of_gradient` or `of_sketch` gave."""
        return decode(basis, (self.a, self.rank), self.weight.dtype)

    def change_to(self, basis: Projector) -> Tensor:
        """C (r, r) = P_newᵀ P_old in fp32, to a new basis as it is stored."""
        return change_of_basis(self.matrix(basis), self.projector)

    def settle(self, basis: Projector) -> None:
        """Let more turns pass until the next refresh where a new basis is nearly the one that there is."""
        threshold = self.weight.group["refresh_overlap"]
        if threshold is not None:
            new = self.matrix(basis)
            similar = not new.is_meta and float(overlap(self.projector, new)) >= threshold
            settle(self.weight.state, self.clock(), self.schedule.gap, similar)

    def of_gradient(self, grad: Tensor) -> Projector:
        """A new basis, as it is stored, from a whole gradient (m, n)."""
        found = self._found_in(grad, lambda: self._decompose(grad))
        return self._encoded(self._switched(found, self.oriented(grad)))

    def of_sketch(self, y: Tensor) -> Projector:
        """A new basis, as it is stored, from Y = G Ω (a, r) with Ω of `test_matrix`."""
        found = self._found_in(y, lambda: range_basis(y / y.abs().max().clamp_min(1e-30), self.rank))
        return self._encoded(self._switched(found, y))

    def test_matrix(self) -> Tensor:
        """Ω (b, r): random at first, afterwards the row space of the first moment, which makes one warm power step."""
        state, rows = self.weight.state, None
        if "exp_avg" in state:
            moment = self._moment()
            rows = self._found_in(moment, lambda: range_basis(moment.mT, self.rank))
        return self._random() if rows is None else rows

    def _decompose(self, grad: Tensor) -> Basis:
        raise NotImplementedError

    @contextmanager
    def joined_moment(self) -> Iterator[None]:
        """A context in which a rank may decompose alone: what all of them have to give for it, they have given."""
        self._joined = self._moment() if self.warm and self.columns and "exp_avg" in self.weight.state else None
        try:
            yield
        finally:
            self._joined = None

    def _moment(self) -> Tensor:
        """The first moment (r, b), of all ranks that hold columns of it."""
        if self._joined is not None:
            return self._joined
        moment, ranks = read_moment(self.weight.state, "exp_avg"), self.weight.ranks
        return moment if self.columns is None or ranks is None else self.columns.join(ranks, moment)

    def _random(self) -> Tensor:
        return gaussian(self.b, self.rank, mix(self.seed, self.clock()), self.weight.like)

    def _switched(self, p: Tensor | None, g: Tensor) -> Tensor | None:
        """P with the asked share of it drawn from the complement of what leads in g (a, k)."""
        drawn = round((self.weight.group["switch"] or 0.0) * self.rank)
        if p is None or drawn == 0:
            return p
        seed = mix(self.seed, self.clock(), self.weight.index)
        omega = gaussian(self.a, drawn, seed, p.new_empty(0, dtype=torch.float32))
        switched = self._found(lambda: switched_basis(p, g, omega))
        return p if switched is None else switched

    def _found_in(self, source: Tensor, decompose: Callable[[], Basis]) -> Tensor | None:
        """P of a decomposition of `source`; None where no direction leads in it, too."""
        return None if self._is_zero(source) else self._found(decompose)

    def _found(self, decompose: Callable[[], Basis]) -> Tensor | None:
        """P of a decomposition; None where all its ways fail, which is counted."""
        try:
            with span("refresh"):
                basis = decompose()
        except LinAlgError:
            self.fallbacks += 1
            return None
        self.fallbacks += basis.fell_back
        return basis.p

    def _is_zero(self, source: Tensor) -> bool:
        """Whether no direction leads in `source`, as behind a head that starts at zero; it is counted."""
        some = source.any()
        zero = not (some.is_meta or bool(some))
        self.fallbacks += zero
        return zero

    def _kept(self) -> Projector:
        """The basis that there is."""
        return {name: self.weight.state[name] for name in (CODES, ABSMAX) if name in self.weight.state}

    def _encoded(self, p: Tensor | None) -> Projector:
        """P as it is stored; where none was found, the one that there is goes on, and at first a random one serves."""
        if p is None and self.exists:
            return self._kept()
        if p is None:
            p = random_basis(self.a, self.rank, mix(self.seed, self.weight.index), self.weight.like.device)
        return self.format.encode(p)
