"""Inner rules on their stored state: from a gradient to a direction, whatever the rule and however its state is kept."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from galore.kernels.family import StateDtype, Transport
from galore.kernels.ops.direction import adam_direction_
from galore.kernels.rules.adafactor import AdafactorRule
from galore.kernels.rules.adam import AdamRule
from galore.kernels.rules.orthogonalize import OrthogonalRule, rms_scale
from galore.kernels.rules.transport import transport
from galore.trainer.optim.member import Member
from galore.trainer.optim.parts.storage import moment, moments, new_state

MOMENTS = ("exp_avg", "exp_avg_sq")


class Inner(Protocol):
    """A rule with its state, which is made at the first step; `fallbacks` counts decompositions in it that failed."""

    fallbacks: int

    def planned(self, shape: torch.Size) -> dict[str, Tensor]:
        """The state for gradients of `shape`, on `meta`: nothing is allocated."""

    def direction(self, gradient: Tensor, grad_scale: float, dtype: torch.dtype) -> Tensor:
        """N, contiguous and of the gradient's shape, for grad_scale · gradient; the state takes the step."""

    def carry(self, kind: Transport, c: Tensor) -> None:
        """Take the state (r_old, b) of past steps into a new basis; c (r_new, r_old) = P_newᵀ P_old."""


class AdamInner:
    """Adam: elementwise, so that a whole tensor passes in blocks, in place and in any storage."""

    fallbacks = 0

    def __init__(self, member: Member, state_dtype: StateDtype) -> None:
        self.member, self.state_dtype = member, state_dtype

    def planned(self, shape: torch.Size) -> dict[str, Tensor]:
        return _planned(dict.fromkeys(MOMENTS, (shape, self.state_dtype)))

    def begin(self, shape: torch.Size, device: torch.device) -> None:
        """Create the moments on first use and advance the step count."""
        if _advance(self.member):
            for name in MOMENTS:
                self.member.state.update(new_state(name, shape, self.state_dtype, device))

    def direction(self, gradient: Tensor, grad_scale: float, dtype: torch.dtype) -> Tensor:
        """N = -m̂ / (√v̂ + ε)."""
        self.begin(gradient.shape, gradient.device)
        direction = torch.empty(gradient.shape, dtype=dtype, device=gradient.device)
        adam_direction_(
            direction,
            gradient,
            moments(self.member.state),
            self._rule,
            step=_steps(self.member),
            grad_scale=grad_scale,
        )
        return direction

    def update_(
        self, target: Tensor, grad: Tensor, first: int, last: int, grad_scale: float, lr: float, decay: float
    ) -> None:
        """`AdamRule.update_` on elements [first, last) of the moments."""
        storage = [moment(self.member.state, name) for name in MOMENTS]
        values = [part.read(first, last) for part in storage]
        grad = grad.float()
        grad = grad if grad_scale == 1.0 else grad * grad_scale
        self._rule.update_(target, grad, values[0], values[1], step=_steps(self.member), lr=lr, decay=decay)
        for part, value in zip(storage, values, strict=True):
            part.write(first, last, value)

    def carry(self, kind: Transport, c: Tensor) -> None:
        storage = [moment(self.member.state, name) for name in MOMENTS]
        shape, (beta1, beta2) = self.member.state["exp_avg"].shape, self.member.group["betas"]
        old = [part.read(0, shape.numel()).view(shape) for part in storage]
        carried = transport(kind, old[0], old[1], c, step=_steps(self.member), beta1=beta1, beta2=beta2)
        for name, part in zip(MOMENTS, storage, strict=True):
            if name in carried.changed:
                part.write(0, shape.numel(), getattr(carried, name).reshape(-1))
        if carried.restart:
            self.member.state["step"].zero_()

    @property
    def _rule(self) -> AdamRule:
        beta1, beta2 = self.member.group["betas"]
        return AdamRule(beta1, beta2, self.member.group["eps"], self.member.group["convention"])


class MatrixInner:
    """Adafactor, or orthogonalised momentum: rules that see a matrix as a whole."""

    def __init__(self, member: Member, state_dtype: StateDtype) -> None:
        self.member, self.state_dtype, self.fallbacks = member, state_dtype, 0

    def planned(self, shape: torch.Size) -> dict[str, Tensor]:
        shapes = self._rule.state_shapes(tuple(shape))
        return _planned({name: (torch.Size(own), self._dtype(name)) for name, own in shapes.items()})

    def direction(self, gradient: Tensor, grad_scale: float, dtype: torch.dtype) -> Tensor:
        rule, member, shapes = self._rule, self.member, self._rule.state_shapes(tuple(gradient.shape))
        if _advance(member):
            for name, shape in shapes.items():
                member.state.update(new_state(name, torch.Size(shape), self._dtype(name), gradient.device))
        gradient = gradient.float()
        gradient = gradient if grad_scale == 1.0 else gradient * grad_scale
        values = {name: self._read(name, shape) for name, shape in shapes.items()}
        found = rule.direction_(gradient, values, step=_steps(member)) * self._factor
        for name, value in values.items():
            moment(member.state, name).write(0, value.numel(), value.view(-1))
        return found.to(dtype).contiguous()

    def carry(self, kind: Transport, c: Tensor) -> None:
        """`rotate`: momentum and mean squares of rows follow as for uncorrelated coordinates; those of columns stay."""
        if kind == "keep":
            return
        for name in self.member.state.keys() & {"exp_avg", "row", "column"}:
            shape = tuple(self.member.state[name].shape)
            value = self._read(name, shape)
            turned = {"exp_avg": lambda x: c @ x, "row": lambda x: c.square() @ x, "column": lambda x: x}[name](value)
            turned = torch.zeros_like(value) if kind == "reset" else turned
            moment(self.member.state, name).write(0, value.numel(), turned.reshape(-1))
        if kind == "reset":
            self.member.state["step"].zero_()

    def _read(self, name: str, shape: tuple[int, ...]) -> Tensor:
        return moment(self.member.state, name).read(0, torch.Size(shape).numel()).view(shape)

    def _dtype(self, name: str) -> StateDtype:
        return self.state_dtype if name in MOMENTS else "float32"

    @property
    def _rule(self) -> AdafactorRule | OrthogonalRule:
        group = self.member.group
        if group["inner"] == "adafactor":
            return AdafactorRule(beta1=group["betas"][0] or None)
        exact = group["inner"] == "sumo"
        return OrthogonalRule(group["momentum"], nesterov=not exact, exact=exact, fell_back=self._count_fallback)

    def _count_fallback(self) -> None:
        self.fallbacks += 1

    @property
    def _factor(self) -> float:
        """Brings an orthogonal direction to the size of Adam's, so that learning rates carry over."""
        return 1.0 if self.member.group["inner"] == "adafactor" else rms_scale(*self.member.matrix.shape)


def make_inner(member: Member, state_dtype: StateDtype) -> AdamInner | MatrixInner:
    """The rule that the member's group asks for."""
    return (AdamInner if member.group["inner"] == "adamw" else MatrixInner)(member, state_dtype)


def first_moment(member: Member) -> Tensor | None:
    """The kept average of projected gradients (r, b) in fp32; None before the first step, and for a rule without one."""
    if "exp_avg" not in member.state:
        return None
    shape = member.state["exp_avg"].shape
    return moment(member.state, "exp_avg").read(0, shape.numel()).view(shape)


def _steps(member: Member) -> int:
    return int(member.state["step"])


def _advance(member: Member) -> bool:
    """Count a step; True at the first one, when there is no state yet."""
    fresh = "step" not in member.state
    if fresh:
        member.state["step"] = torch.zeros((), dtype=torch.int64)
    member.state["step"] += 1
    return fresh


def _planned(moments: dict[str, tuple[torch.Size, StateDtype]]) -> dict[str, Tensor]:
    planned = {"step": torch.empty((), dtype=torch.int64, device="meta")}
    for name, (shape, dtype) in moments.items():
        planned |= new_state(name, shape, dtype, torch.device("meta"))
    return planned
