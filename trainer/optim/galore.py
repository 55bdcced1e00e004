"""GaLoreAdamW: project in the backward hook, step after the backward  (GaLore, arXiv 2403.03507, algorithm 2)."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from galore.kernels.linear import Factors
from galore.kernels.reference.operations import Side
from galore.kernels.rules.adam import Convention
from galore.kernels.rules.transport import Transport
from galore.kernels.storage.rounding import RoundingNoise
from galore.trainer.optim.build_slots import SlotOptions, UpdateMode, build_slots, named_groups
from galore.trainer.optim.parts.inner import InnerRule
from galore.trainer.optim.parts.refresh import RefreshMode
from galore.trainer.optim.parts.residual import Residual
from galore.trainer.optim.parts.storage import ProjectorDtype, StateDtype
from galore.trainer.optim.parts.subspace import ProjType
from galore.trainer.optim.projected import ProjectedSlot
from galore.trainer.optim.report import StepReport, Tally
from galore.trainer.optim.settings import check_rates, refuse_several_processes
from galore.trainer.optim.slot import FullSlot, Update
from galore.trainer.optim.state import Stored


class GaLoreAdamW(Stored):
    """AdamW whose state of matrix weights lives in a low-rank subspace of their gradients.

    A group with a `rank` is projected, any other group is plain AdamW. Gradients are taken over as the backward produces
    them: a projected m×n gradient becomes r×max(m, n) and is freed at once, and `parameter.grad` is None after every
    `backward()`. Sums over micro-batches are exact, no weight moves before `step()`.

        optimizer = GaLoreAdamW(galore_groups(model, rank=128), lr=1e-2)
        for batch in batches:
            for micro_batch in batch:
                loss(model, micro_batch).backward()
            optimizer.clip_grad_norm_(1.0)
            optimizer.step()

    Args:
        params: parameters, (name, parameter) pairs, or groups of either; a group may override any setting below and have
            a `rank`: a number, clamped to min(m, n), or a fraction of that, below 1.
        lr, betas, eps, weight_decay: as in AdamW; decay is decoupled.
        scale: α, factor on the update of a group (unless given 0.25 for GaLore and Fira, 1 for the others).
        update_proj_gap: T, steps between two refreshes of a layer's subspace.
        proj_type: kind of subspace, see `trainer.optim.subspace`: `svd`, `randomized` (range finder), `power` (one warm
            step of block power iteration), `dct` (columns of one fixed basis), `random` (from the seed, never stored).
        side: which side of a weight P multiplies, `left`, `right`, or `auto`: that of the smaller dimension.
        refresh: which gradient a refresh sees, see `trainer.optim.projected`; default `delayed` / `summed` (svd).
        refresh_overlap: ‖P_oldᵀP_new‖²_F / r from which on a layer waits twice as long for its next refresh; None never does.
        stagger: spread the layers' refreshes over the gap.
        update: `accumulate`, or `immediate`: step inside the hook, without accumulation, clipping or transactional step.
        inner: rule in the subspace, or for the whole gradient of a group without `rank`: `adamw`, `adafactor`, `muon`
            (momentum, orthogonalised by Newton-Schulz), `sumo` (exactly orthogonalised).
        momentum: decay of the momentum of `muon` and `sumo`.
        transport: what the moments do when a layer's basis changes: `keep`, `reset`, or `rotate` into the new one (LDAdam);
            None rotates, and keeps with `random` subspaces and `reference`.
        residual: what is added from outside the subspace, `none`, `fira`, `apollo`, `apollo-mini` or `frugal`; all but
            `none` need the whole summed gradient, see `trainer.optim.residual`.
        projector_dtype: how P is kept, `float32`, `bfloat16`, `int8` or `int4`; by default as the weight.
        convention: `paper`, or `reference` for the arithmetic order of the official code.
        state_dtype: moments in `float32`, bitsandbytes' `8bit`, or `fp8`, e4m3 in blocks.
        accumulator_dtype: precision of sums over micro-batches.
        weight_rounding: how bf16 weights take an fp32 update: `stochastic`, `nearest`, or `compensated`, exact by another 16
            bits per weight.
        max_grad_norm: global norm that `step()` clips to. torch's `clip_grad_norm_(parameters)` finds no gradients to clip:
            give this, or call `optimizer.clip_grad_norm_` before `step()`.
        accumulation: micro-batches per step where known; lets `summed` free the whole gradient inside the last hook.
        seed: of random subspaces and rounding. Everything random is a pure function of (seed, step).

    Raises:
        ValueError: a setting cannot be meant or contradicts another, a projected parameter is no matrix, a parameter is not contiguous.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        scale: float | None = None,
        update_proj_gap: int = 200,
        proj_type: ProjType = "randomized",
        side: Side = "auto",
        refresh: RefreshMode | None = None,
        refresh_overlap: float | None = None,
        stagger: bool = True,
        update: UpdateMode = "accumulate",
        inner: InnerRule = "adamw",
        momentum: float = 0.95,
        transport: Transport | None = None,
        residual: Residual = "none",
        projector_dtype: ProjectorDtype | None = None,
        convention: Convention = "paper",
        state_dtype: StateDtype = "float32",
        accumulator_dtype: torch.dtype = torch.float32,
        weight_rounding: Literal["stochastic", "nearest", "compensated"] = "stochastic",
        max_grad_norm: float | None = None,
        accumulation: int | None = None,
        seed: int = 0,
    ) -> None:
        refuse_several_processes()
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "scale": scale,
            "rank": None,
            "update_proj_gap": update_proj_gap,
            "proj_type": proj_type,
            "side": side,
            "refresh_overlap": refresh_overlap,
            "inner": inner,
            "momentum": momentum,
            "convention": convention,
            "transport": transport,
            "residual": residual,
            "projector_dtype": projector_dtype,
            "clock": 0,
        }
        super().__init__(named_groups(params), defaults)
        if max_grad_norm is not None and not (0 < max_grad_norm < math.inf and update == "accumulate"):
            raise ValueError(
                f"max_grad_norm={max_grad_norm!r}: a finite number above 0, and only with update='accumulate'"
            )
        self.max_grad_norm = max_grad_norm
        self.update, self.seed, self.stochastic = update, seed, weight_rounding == "stochastic"
        compensated = weight_rounding == "compensated"
        options = SlotOptions(refresh, stagger, update, state_dtype, accumulator_dtype, compensated, accumulation, seed)
        self.slots = build_slots(self.param_groups, self.state, options, lambda: self.clock)
        self._sketching = False
        self._norm: float | None = None  # of what is accumulated, once it is known
        self._grad_scale = 1.0
        self._tally, self._fallbacks_told = Tally(), 0
        self._noise: RoundingNoise | None = None
        self.report: StepReport | None = None
        self.attached = True
        self.torn = False  # whether some weights have taken a step that others have not
        self._hooks = [
            p.register_post_accumulate_grad_hook(self._on_gradient)  # type: ignore[no-untyped-call]
            for p in self.slots
            if p.requires_grad  # codes do not; their layer hands over factors
        ]

    def release(self) -> None:
        """Let go of the parameters: backward fills `parameter.grad` again, and another optimizer may take them."""
        self.zero_grad()
        self.attached = False
        for hook in self._hooks:
            hook.remove()

    @property
    def clock(self) -> int:
        """Optimizer steps taken so far."""
        return int(self.param_groups[0]["clock"])

    @property
    def projected(self) -> list[ProjectedSlot]:
        return [slot for slot in self.slots.values() if isinstance(slot, ProjectedSlot)]

    @property
    def wants_sketch_pass(self) -> bool:
        """Whether the coming step wants its micro-batches once through `sketching()` before they are accumulated."""
        return any(slot.refresh.wants_pass for slot in self.projected)

    @contextlib.contextmanager
    def sketching(self) -> Iterator[None]:
        """Backward passes inside only find this step's subspaces; nothing is accumulated."""
        self._sketching = True
        try:
            yield
        finally:
            self._sketching = False
        with torch.no_grad():
            for slot in self.projected:
                slot.refresh.finish_sketch()

    @torch.no_grad()
    def clip_grad_norm_(self, max_norm: float | None) -> float:
        """Global norm of all accumulated gradients as they will be applied; `step()` scales them to `max_norm`.

        Returns the norm before clipping; nan or inf when any gradient is not finite.

        Raises:
            RuntimeError: with `update="immediate"`, what `max_norm` should clip is applied already.
        """
        if self.update == "immediate" and max_norm is not None:
            raise RuntimeError("update='immediate' has applied the gradients in the backward: nothing is left to clip")
        self._absorb_grads()
        active = self._active()
        alone = [
            slot.name for slot in self.projected if slot.parameter.dtype == torch.int8 and slot.weight.scales is None
        ]
        if alone:
            raise RuntimeError(f"{alone[0]} is kept in int8: call hand_over_int8(model, optimizer) before training")
        for slot in active:
            slot.complete()
        if self.update == "immediate":
            self._norm = self._tally.squares**0.5
        else:
            squares = sum((slot.squared_norm() for slot in active), torch.zeros((), dtype=torch.float64))
            self._norm = float(squares.sqrt())
        norm = self._norm
        self._grad_scale = min(1.0, max_norm / (norm + 1e-12)) if max_norm is not None and norm > 0 else 1.0
        return norm

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Apply the accumulated gradients; or skip, leaving every tensor as it was, when one is not finite.

        `report` says which. With `update="immediate"` a gradient that is not finite is left out alone.
        """
        refuse_several_processes()
        check_rates(self.param_groups)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        norm = self.clip_grad_norm_(self.max_grad_norm) if self._norm is None else self._norm
        if math.isfinite(norm):
            update = Update(self._grad_scale, self._step_noise())
            for slot in self._active():
                self._apply(slot, update)
        tally, fallbacks = self._tally, self._fallbacks()
        unmoved = not math.isfinite(norm) or (tally.refused > 0 and not tally.applied)
        if not unmoved:
            self._tick()
        self.report = StepReport(
            norm,
            self._grad_scale,
            tally.refreshed,
            fallbacks - self._fallbacks_told,
            skipped=unmoved or tally.refused > 0,
            refused=0 if unmoved else tally.refused,
        )
        self.torn, self._tally, self._fallbacks_told = False, Tally(), fallbacks
        self.zero_grad()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget everything accumulated since the last step."""
        super().zero_grad(set_to_none=True)
        for slot in self.slots.values():
            slot.discard()
        self._norm, self._grad_scale = None, 1.0

    def take(self, slot: ProjectedSlot, factors: Factors) -> None:
        """Accept a projected layer's gradient as factors, from the layer's own backward."""
        if self._sketching:
            if slot.refresh.wants_pass:
                slot.refresh.add_to_sketch(factors)
            return
        slot.receive(factors)
        if self.update == "immediate":
            self._apply_now(slot)

    @torch.no_grad()
    def _on_gradient(self, parameter: Tensor) -> None:
        """The hook: hand the fresh gradient to its slot and free it."""
        grad, parameter.grad = parameter.grad, None
        assert isinstance(parameter, nn.Parameter)
        slot = self.slots[parameter]
        if grad is None and isinstance(slot, ProjectedSlot) and slot.factored:
            return  # the hook fires all the same; the layer's backward has handed over its factors
        if grad is None:
            raise RuntimeError(f"another optimizer took the gradient of {slot.name}; call release() on that one first")
        if self._sketching:
            if isinstance(slot, ProjectedSlot) and slot.refresh.wants_pass:
                slot.refresh.add_to_sketch(grad)
            return
        slot.receive(grad)
        if self.update == "immediate":
            self._apply_now(slot)

    def _apply_now(self, slot: FullSlot) -> None:
        slot.complete()
        squared = float(slot.squared_norm())
        if not math.isfinite(squared):
            self._tally.refused += 1
            slot.discard()
            return
        self._tally.squares += squared
        self._apply(slot, Update(1.0, self._step_noise()))

    def _apply(self, slot: FullSlot, update: Update) -> None:
        self.torn = True
        self._tally.applied += 1
        self._tally.refreshed += isinstance(slot, ProjectedSlot) and slot.due
        slot.apply(update)

    def _absorb_grads(self) -> None:
        """Gradients set by hand, without a backward, are taken over as the hook would."""
        for parameter in self.slots:
            if parameter.grad is not None:
                self._on_gradient(parameter)

    def _active(self) -> list[FullSlot]:
        return [slot for slot in self.slots.values() if slot.has_gradient]

    def _fallbacks(self) -> int:
        return sum(slot.fallbacks for slot in self.slots.values())

    def _tick(self) -> None:
        for group in self.param_groups:
            group["clock"] += 1
        self._noise = None

    def _step_noise(self) -> RoundingNoise | None:
        low_precision = [p for p in self.slots if p.dtype in (torch.bfloat16, torch.int8)]
        if not self.stochastic or not low_precision:
            return None
        if self._noise is None:
            self._noise = RoundingNoise(self.seed, self.clock, low_precision[0].device)
        return self._noise
