"""Inner rules on their stored state: from a gradient to a direction, however the state is stored; a class per rule."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from galore.kernels.family import MOMENTA, InnerRule, StateDtype
from galore.kernels.ops.direction import adam_direction_
from galore.kernels.ops.projection import Dense, row_blocks
from galore.kernels.rules.adafactor import AdafactorRule
from galore.kernels.rules.adam import AdamRule
from galore.kernels.rules.orthogonalize import NormedRule, OrthogonalRule, momentum_, rms_scale
from galore.kernels.rules.scaled import OutputRule, RacsRule
from galore.kernels.rules.soap import SoapRule
from galore.kernels.rules.transport import rotate
from galore.kernels.storage.blockwise import BLOCK_SIZE
from galore.trainer.optim.parts.storage import moment, moments, new_state, read_moment, write_moment
from galore.trainer.optim.parts.weight import Weight, as_matrix

MOMENTS = ("exp_avg", "exp_avg_sq")


class Inner:
    """A rule and its state among the weight's, made at the first step; `fallbacks` counts failed decompositions."""

    matrices_only = False

    def __init__(self, weight: Weight, state_dtype: StateDtype) -> None:
        coarse = state_dtype == "4bit" and weight.group["inner"] not in MOMENTA
        self.weight, self.state_dtype, self.fallbacks = weight, "8bit" if coarse else state_dtype, 0

    def shapes(self, shape: torch.Size) -> Mapping[str, tuple[int, ...]]:
        """Names and shapes of the moments of gradients of `shape`."""
        raise NotImplementedError

    def direction(self, gradient: Tensor, grad_scale: float, dtype: torch.dtype) -> Tensor:
        """N, contiguous and of the gradient's shape, for grad_scale · gradient; the state takes the step."""
        raise NotImplementedError

    def rows(self, gradient: Tensor, grad_scale: float) -> Dense:
        """The direction of a whole gradient, which each row of the weight as (m, n) is asked for once."""
        gradient = gradient if gradient.ndim < 2 else as_matrix(gradient)
        direction = as_matrix(self.direction(gradient, grad_scale, torch.float32))
        return lambda first, last: direction[first:last]

    def rotate(self, c: Tensor, outside: Tensor | None = None) -> None:
        """Take the moments (r_old, b) of past steps into a new basis; c (r_new, r_old) = P_newᵀ P_old.

        `outside` (b,) is the mean square of coordinates that the old basis had not.
        """
        raise NotImplementedError

    def reset(self) -> None:
        """Forget all past steps, and count from 0: else Adam's next step is (1-β₁)/√(1-β₂) = 3.2 times too long."""
        state = self.weight.state
        for name in [name for name in state if name in (*MOMENTS, *ROTATED)]:
            write_moment(state, name, torch.zeros_like(read_moment(state, name)))
        state["step"].zero_()

    @property
    def started(self) -> bool:
        """Whether there is a state."""
        return "step" in self.weight.state

    @property
    def step(self) -> int:
        """Steps that the state has taken."""
        return int(self.weight.state["step"])

    def planned(self, shape: torch.Size) -> dict[str, Tensor]:
        """The state for gradients of `shape`, on `meta`: nothing is allocated."""
        planned = {"step": torch.empty((), dtype=torch.int64, device="meta")}
        return planned | self._new(shape, torch.device("meta"))

    def begin(self, shape: torch.Size, device: torch.device) -> None:
        """Count a step, and make the state at the first: all of it, or nothing where memory runs out."""
        state = self.weight.state
        if not self.started:
            state.update({"step": torch.zeros((), dtype=torch.int64, device="cpu")} | self._new(shape, device))
        state["step"] += 1

    def _new(self, shape: torch.Size, device: torch.device) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for name, own in self.shapes(shape).items():
            dtype = self.state_dtype if name in MOMENTS else "float32"
            found |= new_state(name, torch.Size(own), dtype, device, self.weight.whole(torch.Size(own)))
        return found


class AdamInner(Inner):
    """Adam: elementwise, so that a whole tensor passes in blocks, in place and in any storage."""

    def shapes(self, shape: torch.Size) -> Mapping[str, tuple[int, ...]]:
        return dict.fromkeys(MOMENTS, shape)

    def direction(self, gradient: Tensor, grad_scale: float, dtype: torch.dtype) -> Tensor:
        """N = -m̂ / (√v̂ + ε)."""
        self.begin(gradient.shape, gradient.device)
        direction = torch.empty(gradient.shape, dtype=dtype, device=gradient.device)
        held = moments(self.weight.state)
        adam_direction_(direction, gradient, held, self._rule, step=self.step, grad_scale=grad_scale)
        return direction

    def update_(
        self, target: Tensor, grad: Tensor, first: int, last: int, grad_scale: float, lr: float, decay: float
    ) -> None:
        """`AdamRule.update_` on elements [first, last) of the moments."""
        storage = [moment(self.weight.state, name) for name in MOMENTS]
        values = [part.read(first, last) for part in storage]
        grad = grad.float()
        grad = grad if grad_scale == 1.0 else grad * grad_scale
        self._rule.update_(target, grad, values[0], values[1], step=self.step, lr=lr, decay=decay)
        for part, value in zip(storage, values, strict=True):
            part.write(first, last, value)

    def rotate(self, c: Tensor, outside: Tensor | None = None) -> None:
        beta1, beta2 = self.weight.group["betas"]
        m, v = (read_moment(self.weight.state, name) for name in MOMENTS)
        rotated = rotate(m, v, c, step=self.step, beta1=beta1, beta2=beta2, outside=outside)
        for name, value in zip(MOMENTS, rotated, strict=True):
            write_moment(self.weight.state, name, value)

    @property
    def _rule(self) -> AdamRule:
        beta1, beta2 = self.weight.group["betas"]
        return AdamRule(beta1, beta2, self.weight.group["eps"], self.weight.group["convention"])


# How each state of a matrix rule follows a change C of coordinates, as if those were uncorrelated.
ROTATED = {
    "exp_avg": lambda c, x: c @ x,
    "row": lambda c, x: c.square() @ x,
    "column": lambda c, x: x,
    "gram": lambda c, x: c @ x @ c.mT,
    "axes": lambda c, x: torch.linalg.qr(c @ x)[0],
}


class MatrixInner(Inner):
    """A rule that sees a matrix as a whole."""

    @property
    def rule(self) -> AdafactorRule | OrthogonalRule | RacsRule | SoapRule | OutputRule:
        """The rule with the settings of now."""
        raise NotImplementedError

    @property
    def factor(self) -> float:
        """Brings a direction to the size of Adam's, so that learning rates carry over."""
        return 1.0

    def shapes(self, shape: torch.Size) -> Mapping[str, tuple[int, ...]]:
        return self.rule.state_shapes(tuple(shape))

    def _count_fallback(self) -> None:
        self.fallbacks += 1

    def direction(self, gradient: Tensor, grad_scale: float, dtype: torch.dtype) -> Tensor:
        self.begin(gradient.shape, gradient.device)
        gradient = gradient.float()
        gradient = gradient if grad_scale == 1.0 else gradient * grad_scale
        values = {name: read_moment(self.weight.state, name) for name in self.shapes(gradient.shape)}
        found = self.rule.direction_(gradient, values, step=self.step) * self.factor
        for name, value in values.items():
            write_moment(self.weight.state, name, value)
        return found.to(dtype).contiguous()

    def rotate(self, c: Tensor, outside: Tensor | None = None) -> None:
        state = self.weight.state
        for name in [name for name in state if name in ROTATED]:
            write_moment(state, name, ROTATED[name](c, read_moment(state, name)))


class AdafactorInner(MatrixInner):
    """Adafactor, whose second moment is factored  (arXiv 1804.04235)."""

    @property
    def rule(self) -> AdafactorRule:
        return AdafactorRule(beta1=self.weight.group["betas"][0] or None)

    def begin(self, shape: torch.Size, device: torch.device) -> None:
        """Count a step; the first moment comes and goes with β₁, which a schedule may change."""
        state, kept = self.weight.state, "exp_avg" in self.shapes(shape)
        if kept and self.started and "exp_avg" not in state:
            state.update({name: each for name, each in self._new(shape, device).items() if name not in state})
        super().begin(shape, device)
        for name in () if kept else ("exp_avg", "exp_avg_absmax"):
            state.pop(name, None)


class MuonInner(MatrixInner):
    """Nesterov momentum, orthogonalized by Newton-Schulz  (Muon)."""

    matrices_only = True
    exact = False

    @property
    def rule(self) -> OrthogonalRule:
        momentum = self.weight.group["momentum"]
        return OrthogonalRule(momentum, nesterov=not self.exact, exact=self.exact, fell_back=self._count_fallback)

    @property
    def factor(self) -> float:
        return rms_scale(*self.weight.matrix.shape)

    def momentum(self, gradient: Tensor) -> Tensor:
        """The momentum after an fp32 `gradient` (r, b), before it is orthogonalized."""
        self.begin(gradient.shape, gradient.device)
        held = read_moment(self.weight.state, "exp_avg")
        found = momentum_(held, gradient, self.rule.beta, self.rule.nesterov)
        write_moment(self.weight.state, "exp_avg", held)
        return found

    def update(self, momentum: Tensor) -> Tensor:
        """The update from an fp32 momentum (m, n) of the whole weight."""
        return self.rule.update(momentum, self.weight.state).mul_(-self.factor)


class NormuonInner(MuonInner):
    """Muon whose rows, the outputs of a weight, are brought to one size  (NorMuon, arXiv 2510.05491)."""

    @property
    def rule(self) -> NormedRule:
        return NormedRule(self.weight.group["momentum"])

    def shapes(self, shape: torch.Size) -> Mapping[str, tuple[int, ...]]:
        return {**self.rule.state_shapes(tuple(shape)), "row_squares": tuple(self.weight.matrix.shape[:1])}


class SumoInner(MuonInner):
    """Momentum, orthogonalized exactly  (SUMO, arXiv 2505.24749)."""

    exact = True


class RacsInner(MatrixInner):
    """Rows and columns scaled by averages of a fixed point  (RACS, arXiv 2502.07752)."""

    matrices_only = True

    @property
    def rule(self) -> RacsRule:
        return RacsRule(self.weight.group["betas"][0])


class SoapInner(MatrixInner):
    """Adam along the axes of an average of R Rᵀ  (SOAP, arXiv 2409.11321); its second moment stays with its axis."""

    matrices_only = True

    def rows(self, gradient: Tensor, grad_scale: float) -> Dense:
        """Rows of the direction of a tall gradient, along its columns' axes; in fp32 a block of them at a time."""
        gradient = as_matrix(gradient)
        m, n = gradient.shape
        if m <= n:
            return super().rows(gradient, grad_scale)
        self.begin(gradient.shape, gradient.device)
        square = torch.zeros(n, n, dtype=torch.float32, device=gradient.device)
        for _, first, last in row_blocks(gradient):
            block = gradient[first:last].float()
            square.addmm_(block.mT, block, alpha=grad_scale**2)
        self.rule.follow_(self.weight.state, square, step=self.step)
        coded = "exp_avg_absmax" in self.weight.state
        if not coded or n % BLOCK_SIZE == 0:
            return lambda first, last: self._along(gradient, grad_scale, first, last)
        whole = self._along(gradient, grad_scale, 0, m)
        return lambda first, last: whole[first:last]

    def _along(self, gradient: Tensor, grad_scale: float, first: int, last: int) -> Tensor:
        """-N of some rows of a tall gradient."""
        state, n = self.weight.state, gradient.shape[1]
        storage = [moment(state, name) for name in MOMENTS]
        values = [each.read(first * n, last * n) for each in storage]
        block = gradient[first:last].float()
        block = block if grad_scale == 1.0 else block * grad_scale
        m, v = (value.view(-1, n).mT for value in values)
        found = self.rule.along_(block.mT, m, v, state["axes"], step=self.step)
        for each, value in zip(storage, values, strict=True):
            each.write(first * n, last * n, value)
        return found.mT

    @property
    def rule(self) -> SoapRule:
        beta1, beta2 = self.weight.group["betas"]
        return SoapRule(beta1, beta2, self.weight.group["eps"], self._count_fallback)


class ScaleInner(MatrixInner):
    """Every output of one norm, without a state  (SCALE, arXiv 2506.16659)."""

    matrices_only = True

    @property
    def rule(self) -> OutputRule:
        return OutputRule()


class ScaleMomentumInner(ScaleInner):
    """Every output of a momentum of one norm, for the head."""

    @property
    def rule(self) -> OutputRule:
        return OutputRule(self.weight.group["momentum"])


INNER_RULES: dict[InnerRule, type[Inner]] = {
    "adamw": AdamInner,
    "adafactor": AdafactorInner,
    "muon": MuonInner,
    "normuon": NormuonInner,
    "sumo": SumoInner,
    "racs": RacsInner,
    "soap": SoapInner,
    "scale": ScaleInner,
    "scale-momentum": ScaleMomentumInner,
}
