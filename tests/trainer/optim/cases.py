"""Presets and problems: every optimizer of the family, every shape of weight, and a run of one on the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import yaml
from torch import Tensor, nn

from galore.kernels.family import residual_scale_of
from galore.kernels.reference import methods, rules
from galore.kernels.reference.operations import dct_basis
from galore.kernels.rules.residual import noise_floor
from galore.kernels.storage import blockwise
from galore.kernels.storage.sixteen import POSITIVE
from galore.trainer.optim.parts.modes import Delayed
from galore.trainer.optim.projected import ProjectedSlot
from galore.trainer.optim.slot import FullSlot
from galore.trainer.optimizer import build_optimizer
from galore.trainer.recipe.methods import METHODS
from galore.trainer.recipe.schema.optim import OptimSection

STEPS, GAP, RANK = 20, 5, 5
COMMON = (
    "optim.weight_decay=0.1",
    "optim.adam_beta2=0.99",
    "optim.target_modules=[target]",
    "optim.stagger=false",
    f"optim.update_proj_gap={GAP}",
    f"optim.rank={RANK}",
)
GALORE = "optim.method=galore"
PRESETS: dict[str, tuple[str, ...]] = {
    **{name: each.settings for name, each in METHODS.items() if "optim.method=lora" not in each.settings},
    "galore-power": (GALORE, "optim.proj_type=power"),
    "galore-random": (GALORE, "optim.proj_type=random"),
    "galore-random-reset": (GALORE, "optim.proj_type=random", "optim.transport=reset"),
    "galore-svd-reset": (GALORE, "optim.proj_type=svd", "optim.transport=reset"),
    "galore-first": (GALORE, "optim.refresh=first-micro-batch"),
    "galore-share": (GALORE, "optim.rank=0.4", "optim.scale=0.5"),
    "galore-int8": (GALORE, "optim.projector_dtype=int8"),
    "galore-bfloat16": (GALORE, "optim.projector_dtype=bfloat16"),
    "ldadam-8bit": (GALORE, "optim.transport=rotate", "optim.state_dtype=8bit"),
    "dct-keep": (GALORE, "optim.proj_type=dct", "optim.transport=keep"),
    "fira-int4": (GALORE, "optim.residual=fira", "optim.projector_dtype=int4"),
    "apollo-svd": (GALORE, "optim.residual=apollo", "optim.proj_type=svd"),
    "sumo-8bit": (GALORE, "optim.inner=sumo", "optim.state_dtype=8bit"),
    "sumo-4bit": (GALORE, "optim.inner=sumo", "optim.state_dtype=4bit"),
    "muon-reset-4bit": (GALORE, "optim.inner=muon", "optim.transport=reset", "optim.state_dtype=4bit"),
    "normuon-low-rank-4bit": (GALORE, "optim.inner=normuon", "optim.residual=joint", "optim.state_dtype=4bit"),
    "sumo-reset": (GALORE, "optim.inner=sumo", "optim.transport=reset"),
    "sumo-alice-8bit": (GALORE, "optim.inner=sumo", "optim.residual=alice", "optim.state_dtype=8bit"),
    "alice-rotate": (GALORE, "optim.residual=alice", "optim.switch=0.5", "optim.proj_type=svd"),
    "columns-int4": (GALORE, "optim.residual=columns", "optim.projector_dtype=int4", "optim.residual_scale=0.3"),
    "columns-complete": (GALORE, "optim.residual=columns", "optim.transport=complete"),
    "columns-random": (GALORE, "optim.residual=columns", "optim.proj_type=random"),
    "fira-scaled": (GALORE, "optim.residual=fira", "optim.residual_scale=0.5"),
    "frugal-scaled-power": (GALORE, "optim.residual=frugal", "optim.residual_scale=0.4", "optim.proj_type=power"),
    "switch-delayed": (GALORE, "optim.switch=0.6"),
    "racs-subspace": (GALORE, "optim.inner=racs"),
    "racs-reset": (GALORE, "optim.inner=racs", "optim.transport=reset"),
    "soap-reset": (GALORE, "optim.inner=soap", "optim.transport=reset"),
    "soap-keep-8bit": (GALORE, "optim.inner=soap", "optim.transport=keep", "optim.state_dtype=8bit"),
    "soap-frugal": (GALORE, "optim.inner=soap", "optim.residual=frugal"),
    "soap-full": ("optim.method=full", "optim.inner=soap"),
    "soap-full-8bit": ("optim.method=full", "optim.inner=soap", "optim.state_dtype=8bit"),
    "scale-momentum": ("optim.method=full", "optim.inner=scale-momentum"),
    "muon-frugal": (GALORE, "optim.inner=muon", "optim.residual=frugal"),
    "muon-low-rank-8bit": (GALORE, "optim.inner=muon", "optim.residual=joint", "optim.state_dtype=8bit"),
    "normuon-low-rank-8bit": (GALORE, "optim.inner=normuon", "optim.residual=joint", "optim.state_dtype=8bit"),
    "muon-joint-4bit": (GALORE, "optim.inner=muon", "optim.residual=joint-4bit", "optim.transport=keep"),
    "normuon-joint-all-4bit": (
        GALORE,
        "optim.inner=normuon",
        "optim.residual=joint-4bit",
        "optim.state_dtype=4bit",
        "optim.proj_type=svd",
    ),
    "sampled-4bit": (
        GALORE,
        "optim.inner=muon",
        "optim.residual=sampled",
        "optim.sampled_share=0.4",
        "optim.state_dtype=4bit",
    ),
    "sampled-8bit": (
        GALORE,
        "optim.inner=muon",
        "optim.residual=sampled",
        "optim.sampled_share=0.4",
        "optim.state_dtype=8bit",
    ),
    "sampled-svd-reset": (
        GALORE,
        "optim.inner=muon",
        "optim.residual=sampled",
        "optim.residual_scale=0.5",
        "optim.proj_type=svd",
        "optim.transport=reset",
    ),
    "sampled-int4": (
        GALORE,
        "optim.inner=muon",
        "optim.residual=sampled",
        "optim.sampled_share=1",
        "optim.projector_dtype=int4",
    ),
    "muon-low-rank-scaled": (GALORE, "optim.inner=muon", "optim.residual=joint", "optim.residual_scale=0.3"),
    "adafactor-reset": (GALORE, "optim.inner=adafactor", "optim.transport=reset"),
    "adafactor-without-moment": (GALORE, "optim.inner=adafactor", "optim.transport=rotate", "optim.adam_beta1=0"),
    "adafactor-full-without-moment": ("optim.method=full", "optim.inner=adafactor", "optim.adam_beta1=0"),
}


@dataclass(frozen=True)
class Problem:
    """A module with one weight, as (m, n) when it is flattened; `turned`: P multiplies from the right."""

    module: Callable[[], nn.Module]
    matrix: tuple[int, int]
    turned: bool
    overrides: tuple[str, ...] = ()


PROBLEMS = {
    "wide": Problem(lambda: nn.Linear(30, 12, bias=False), (12, 30), False),
    "tall": Problem(lambda: nn.Linear(12, 30, bias=False), (30, 12), True),
    "square": Problem(lambda: nn.Linear(16, 16, bias=False), (16, 16), True),
    "narrower than the rank": Problem(lambda: nn.Linear(24, 4, bias=False), (4, 24), False),
    "convolution": Problem(lambda: nn.Conv2d(3, 8, 3, bias=False), (8, 27), False),
    "embedding": Problem(lambda: nn.Embedding(50, 8), (50, 8), True),
    "wide from the right": Problem(lambda: nn.Linear(30, 12, bias=False), (12, 30), True, ("optim.side=right",)),
    "tall from the left": Problem(lambda: nn.Linear(12, 30, bias=False), (30, 12), False, ("optim.side=left",)),
}


class Case:
    """A preset on a problem: the section, the model, its optimizer and a gradient per step."""

    def __init__(self, preset: str, problem: str, *more: str) -> None:
        self.problem = PROBLEMS[problem]
        overrides = (*COMMON, *PRESETS[preset], *self.problem.overrides, *more)
        pairs = (override.removeprefix("optim.").split("=", 1) for override in overrides)
        self.optim = OptimSection(**{key: yaml.safe_load(value) for key, value in pairs})
        torch.manual_seed(0)
        self.model = nn.ModuleDict({"target": self.problem.module()})
        self.optimizer = build_optimizer(self.model, self.optim, accumulation=1, seed=3)

    @property
    def weight(self) -> nn.Parameter:
        (weight,) = self.model.parameters()
        return weight

    @property
    def slot(self) -> FullSlot:
        return self.optimizer.slots[self.weight]

    @property
    def turned(self) -> bool:
        return self.projected and self.problem.turned

    @property
    def projected(self) -> bool:
        return self.optim.method == "galore"

    @property
    def sides(self) -> tuple[int, int]:
        """(a, b)"""
        m, n = self.problem.matrix
        return (n, m) if self.turned else (m, n)

    @property
    def rank(self) -> int:
        asked, smaller = self.optim.rank, min(self.sides)
        return min(round(asked * smaller) if asked < 1 else int(asked), smaller) if self.projected else self.sides[0]

    def oriented(self, x: Tensor) -> Tensor:
        """A copy as (a, b)."""
        x = x.detach().reshape(self.problem.matrix)
        return (x.T if self.turned else x).clone()

    def reference(self) -> Reference:
        return Reference(self.oriented(self.weight), self.rank, self.optim, self.turned)

    def gradients(self) -> Iterator[Tensor]:
        """Of a leading subspace that turns, over noise; one much larger; of an embedding half the rows."""
        m, n = self.problem.matrix
        draw = torch.Generator().manual_seed(1)
        left, right = torch.randn(m, 6, generator=draw), torch.randn(6, n, generator=draw)
        for step in range(STEPS):
            left, right = (x + 0.1 * torch.randn(x.shape, generator=draw) for x in (left, right))
            gradient = (left @ right + 0.5 * torch.randn(m, n, generator=draw)) * (4.0 if step == 9 else 1.0)
            if isinstance(self.model["target"], nn.Embedding):
                gradient *= torch.rand(m, 1, generator=draw) < 0.5
            yield gradient.view(self.weight.shape)

    def take(self, gradient: Tensor) -> Tensor | None:
        """One step; returns the basis (a, r) that it used."""
        slot = self.slot
        (self.weight * gradient).sum().backward()
        if not isinstance(slot, ProjectedSlot):
            self.optimizer.step()
            return None
        early = slot.subspace.exists and not (slot.due and not isinstance(slot.refresh, Delayed))
        basis = self.basis() if early else None
        self.optimizer.step()
        return self.basis() if basis is None else basis

    def basis(self) -> Tensor:
        """P (a, r) as it is now; of a DCT in float64, so that columns of two bases are equal or orthogonal exactly."""
        if self.optim.proj_type == "dct":
            return dct_basis(self.sides[0])[:, self.slot.state["projector"].long()]
        assert isinstance(self.slot, ProjectedSlot)
        return self.slot.projector.clone()


class Reference:
    """W (a, b) by the equations of the papers, in float64, under the settings of a recipe."""

    def __init__(self, weight: Tensor, rank: int, optim: OptimSection, turned: bool) -> None:
        self.w, self.optim, self.p = weight.double(), optim, None
        self.state, self.steps = rules.State(rank, weight.shape[1]), 0
        self.settings = rules.Settings(
            lr=optim.learning_rate,
            alpha=optim.effective_scale,
            decay=optim.weight_decay,
            beta1=optim.adam_beta1,
            beta2=optim.adam_beta2,
            eps=optim.adam_epsilon,
            mu=optim.momentum,
            outside=residual_scale_of(optim),
            floor=noise_floor(weight.dtype),
            sides=tuple(weight.shape),
            turned=turned,
        )

    def step(self, g: Tensor, p: Tensor | None, turned: bool) -> None:
        """For the gradient g (a, b); `turned`: p (a, r) is not the basis of the last step."""
        p = None if p is None else p.double()
        if turned and self.p is not None:
            kept, name = self.state.m, self.optim.effective_transport
            inside = self.p @ kept
            more = (outside(g.double(), self.p),) if name == "complete" else ()
            methods.TRANSPORTS[name](self.state, p.mT @ self.p, self.settings, *more)
            if self.state.m is not kept:
                self._store_moments()
            if self.optim.residual == "joint-4bit" and isinstance(self.state.e, Tensor):
                self.state.e = self.state.e + inside - p @ self.state.m
                self._store_outside()
        if self.steps % GAP == 0:
            self._take_turn(*g.shape)
        self.steps += 1
        method, rule = methods.METHODS[self.optim.residual], rules.RULES[self.optim.inner]
        self.w = methods.step(self.w, g.double(), p, self.state, self.settings, method, rule)
        self._store_moments()
        self._store_outside()
        self.p = p

    def _take_turn(self, a: int, b: int) -> None:
        """The columns of the next turn of `sampled`: blocks of an even number of them, the last up to the last column."""
        if self.optim.residual == "sampled":
            width = min(b, 2 * math.ceil(self.optim.sampled_share * b / 2))
            first = min(self.steps // GAP % math.ceil(b / width) * width, b - width)
            self.state.sampled = slice(first, first + width)
            self.state.e = torch.zeros(a, width, dtype=torch.float64)

    def _store_moments(self) -> None:
        self.state.m = self._stored(self.state.m)
        if self.optim.state_dtype == "8bit":
            self.state.v = blockwise_storage(self.state.v, False)

    def _stored(self, moment: Tensor) -> Tensor:
        """What is left of a signed moment."""
        if self.optim.state_dtype == "4bit" and moment.shape[-1] % 2 == 0:
            return four_bit_storage(moment)
        return moment if self.optim.state_dtype == "float32" else blockwise_storage(moment, True)

    def _store_outside(self) -> None:
        e = self.state.e
        if self.optim.residual == "sampled" and isinstance(e, Tensor):
            self.state.e = self._stored(e)
        elif isinstance(e, Tensor):
            self.state.e = four_bit_storage(e.mT).mT if e.shape[1] % 2 else four_bit_storage(e)


def outside(g: Tensor, p: Tensor) -> Tensor | None:
    """Mean square of the coordinates that a column of G has outside the orthonormal P; None where there are none."""
    left = p.shape[0] - p.shape[1]
    return (g - p @ p.mT @ g).square().sum(0) / left if left else None


def four_bit_storage(moment: Tensor) -> Tensor:
    """What sixteen values of a normal distribution leave of a moment whose rows, then columns, are brought to one size."""
    rows = moment.square().mean(1, keepdim=True).sqrt()
    left = torch.nan_to_num(moment / rows, nan=0.0)
    columns = left.square().mean(0, keepdim=True).sqrt()
    left = torch.nan_to_num(left / columns, nan=0.0)
    values = torch.tensor([-value for value in POSITIVE] + [*POSITIVE], dtype=torch.float64)
    nearest = (left[..., None] - values).abs().argmin(-1)
    return values[nearest] * rows * columns


def blockwise_storage(moment: Tensor, signed: bool) -> Tensor:
    """What bitsandbytes' 8-bit format leaves of a moment."""
    flat = moment.float().reshape(-1).clone()
    codes, absmax = torch.zeros(flat.numel(), dtype=torch.uint8), torch.zeros(math.ceil(flat.numel() / 256))
    blockwise.quantize_(codes, absmax, flat, signed)
    return blockwise.dequantize(codes, absmax, signed).view(moment.shape).double()
