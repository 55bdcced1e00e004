"""GaLoreAdamW: project in the backward hook, step after the backward  (GaLore, arXiv 2403.03507, algorithm 2)."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from galore.kernels.host import host_of
from galore.kernels.span import span
from galore.kernels.storage.rounding import RoundingNoise
from galore.trainer.optim.build_slots import build_slots, device_of, named_groups, refuse_alone
from galore.trainer.optim.clipping import squared_norm, warn_of_clipping
from galore.trainer.optim.keywords import taking
from galore.trainer.optim.parts.hooks import after_gradient, shield, shielded
from galore.trainer.optim.parts.owners import take_over
from galore.trainer.optim.parts.refresh import Gradient
from galore.trainer.optim.parts.shards import local
from galore.trainer.optim.projected import ProjectedSlot
from galore.trainer.optim.report import StepReport, Tally
from galore.trainer.optim.settings import PER_GROUP, OptimizerSettings, composition, refuse_step
from galore.trainer.optim.slot import FullSlot, Update, all_or_nothing
from galore.trainer.optim.state import Stored
from galore.trainer.optim.together import Together

ONCE = "call clip_grad_norm_ once a step, after its last backward, and then step() or zero_grad()"


class GaLoreAdamW(Stored):
    """AdamW whose state of matrix weights lives in a low-rank subspace of their gradients.

    A group with a `rank` is projected, any other group is plain AdamW. Gradients are taken over as the backward
    produces them: a projected m×n gradient becomes r×max(m, n) and is freed at once, and `parameter.grad` is None after
    every `backward()`. Sums over micro-batches are exact, no weight moves before `step()`.

        optimizer = GaLoreAdamW(galore_groups(model, rank=128), lr=1e-2)
        for batch in batches:
            for micro_batch in batch:
                loss(model, micro_batch).backward()
            optimizer.clip_grad_norm_(1.0)
            optimizer.step()

    Everything random is a pure function of (seed, step). Settings are those of `OptimizerSettings`, by keyword; `help`
    of the constructor says what each means, docs/optimizer.md what for. They are checked: a value that cannot be meant,
    and settings that contradict each other, raise ValueError.
    """

    # a GradScaler then asks nobody for gradients, and tells `step` of itself
    _step_supports_amp_scaling = True

    @taking(OptimizerSettings)
    def __init__(self, params: Iterable[Any], settings: OptimizerSettings) -> None:
        """Take over the gradients of `params`: parameters, (name, parameter) pairs, or groups of either.

        A group may have its own rates and its own `GroupSettings` (kernels/family.py), and a `rank`: a number, clamped
        to min(m, n), or a fraction of that, below 1.

        Raises:
            ValueError: a setting cannot be meant or contradicts another, a projected parameter is no matrix, a
                parameter is not contiguous.
        """
        self.ranks = settings.ranks
        defaults = {name: getattr(settings, name) for name in PER_GROUP} | {"rank": None, "clock": 0}
        super().__init__(named_groups(params, full_rank={"scale": 1.0}), defaults)
        self.update, self.seed, self.max_grad_norm = settings.update, settings.seed, settings.max_grad_norm
        self.stochastic = settings.weight_rounding == "stochastic"
        on_host = settings.gradient_sums == "host"
        self.host = host_of(device_of(self.param_groups)) if on_host else None  # where they wait
        self.slots = build_slots(self.param_groups, self.state, settings, self.host)
        self._made = composition(self.param_groups)
        self._together = Together(self.ranks, self.slots)
        self.sharded = self._together.sharded
        self._sketching = False
        self._norm: float | None = None  # of what is accumulated, once it is known
        self._grad_scale = 1.0
        self._tally, self._fallbacks_told = Tally(), 0
        self._noise: RoundingNoise | None = None
        self.report: StepReport | None = None
        self._asked_of_clipping = False
        self.torn = False  # whether some weights have taken a step that others have not
        # told of a parameter right before it is written to: its weights may have to come from somewhere
        self.before_write: Callable[[Tensor], None] = lambda parameter: None
        self._standing: dict[Tensor, ProjectedSlot] = {}  # whole weights, of which a slot has a part
        self.attached = False  # whether gradients are taken over
        self.attach()

    def __getstate__(self) -> dict[str, Any]:
        """No copy: hooks of the parameters call this very object. Raises TypeError for `copy.deepcopy` and pickle."""
        raise TypeError(
            "a GaLoreAdamW cannot be copied, hooks call this one: make a new one and load_state_dict into it"
        )

    def attach(self) -> None:
        """Take the gradients of the parameters, as a new optimizer does; after `release` again, the state as it is.

        Another GaLoreAdamW that has some of them is released.
        """
        if self.attached:
            return
        take_over(self)
        # Codes require no gradient; their layer hands over factors.
        floating = [p for p in self.slots if p.requires_grad]
        self._hooks = [after_gradient(p, self._on_gradient) for p in (*floating, *self._standing)]
        self.attached = True

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

    @property
    def sketches_first(self) -> bool:
        """Whether that pass is of the first micro-batch of the first of `ranks` alone."""
        passing = [slot.refresh for slot in self.projected if slot.refresh.wants_pass]
        return all(not each.sketches for each in passing)

    @contextlib.contextmanager
    def sketching(self) -> Iterator[None]:
        """Backward passes inside only find this step's subspaces; nothing is accumulated."""
        passing = [slot.refresh for slot in self.projected if slot.refresh.wants_pass]
        self._sketching = True
        try:
            with contextlib.ExitStack() as joined:
                for each in passing:
                    joined.enter_context(each.subspace.joined_moment())
                yield
                # of weights that were frozen when hooks were put on
                self._absorb_grads()
        finally:
            self._sketching = False
        with shield():
            self._together.share_pass(passing)
            for slot in self.projected:
                slot.refresh.finish_sketch()

    def expect_last(self) -> None:
        """Announce the step's last backward: with `ranks`, what is summed over them is sent while it still goes on."""
        self._together.expect_last()

    @shielded
    def clip_grad_norm_(self, max_norm: float | None) -> float:
        """Global norm of all accumulated gradients as they will be applied; `step()` scales them to `max_norm`.

        None is the optimizer's own `max_grad_norm`, where it has one; `math.inf` clips nothing.
        Returns the norm before clipping; nan or inf when any gradient is not finite.

        Raises:
            RuntimeError: with `update="immediate"`, what `max_norm` should clip is applied already.
            ValueError: `max_norm` is negative or nan.
        """
        max_norm = next(each for each in (max_norm, self.max_grad_norm, math.inf) if each is not None)
        if not max_norm >= 0:
            raise ValueError(f"max_norm={max_norm!r}: it has to be a number from 0, or None")
        if self.update == "immediate" and max_norm < math.inf:
            raise RuntimeError("update='immediate' has applied the gradients in the backward: nothing is left to clip")
        self._absorb_grads()
        if self._norm is None:
            self._together.sum_gradients()
        active = self._active()
        refuse_alone(self.projected)
        for slot in active:
            slot.complete()
        if self.update == "immediate":
            self._norm = self._tally.squares**0.5
        else:
            self._norm = self._together.total(float(squared_norm(active))) ** 0.5
        norm = self._norm
        self._together.require_equal(norm)
        self._grad_scale = min(1.0, max_norm / (norm + 1e-12)) if norm > 0 else 1.0
        return norm

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Apply the accumulated gradients; or skip, leaving every tensor as it was, when one is not finite.

        `report` says which. With `update="immediate"` a gradient that is not finite is left out alone.
        """
        refuse_step(self, self.ranks, self._made)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self._norm is not None:
            self._absorb_grads()
        if self._norm is None and self.max_grad_norm is None and not self._asked_of_clipping:
            self._asked_of_clipping = True
            warn_of_clipping(sys._getframe(1))
        self._step()
        return loss

    @shielded
    def _step(self) -> None:
        norm = self.clip_grad_norm_(None) if self._norm is None else self._norm
        if math.isfinite(norm):
            update = Update(self._grad_scale, self._step_noise())
            for slot in self._active():
                self._apply(slot, update)
        tally, fallbacks = self._tally, self._fallbacks()
        unmoved = not math.isfinite(norm) or (tally.refused > 0 and not tally.applied)
        if not unmoved:
            self._tick()
        skipped, refused = unmoved or tally.refused > 0, 0 if unmoved else tally.refused
        self.report = StepReport(
            norm, self._grad_scale, tally.refreshed, fallbacks - self._fallbacks_told, skipped, refused
        )
        self.torn, self._tally, self._fallbacks_told = False, Tally(), fallbacks
        self.zero_grad()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget everything accumulated since the last step."""
        super().zero_grad(set_to_none=True)
        for slot in self.slots.values():
            slot.discard()
        self._together.forget()
        self._norm, self._grad_scale = None, 1.0

    @property
    def in_pass(self) -> bool:
        """Whether backward passes only find subspaces now."""
        return self._sketching

    def take(self, slot: FullSlot, gradient: Gradient) -> None:
        """Accept a gradient: whole from its hook, or as factors from the layer's own backward.

        Raises:
            RuntimeError: the norm of the step is known already, and would not be that of what is applied.
        """
        if self._sketching:
            if isinstance(slot, ProjectedSlot) and slot.refresh.wants_pass:
                slot.refresh.add_to_sketch(gradient)
            return
        if self._norm is not None:
            raise RuntimeError(f"a gradient of {slot.name} comes after the norm: {ONCE}")
        with span("projection"):
            slot.receive(gradient)
        if self.update == "immediate":
            self._apply_now(slot)

    @shielded
    def _on_gradient(self, parameter: Tensor) -> None:
        """The hook: hand the fresh gradient to its slot and free it."""
        assert isinstance(parameter, nn.Parameter)
        slot = (self._standing and self._standing.get(parameter)) or self.slots[parameter]
        grad, parameter.grad = parameter.grad, None
        grad = None if grad is None else local(grad)
        if grad is not None and grad.is_sparse:
            raise ValueError(f"{slot.name} has a sparse gradient: make the embedding with sparse=False")
        if grad is None and isinstance(slot, ProjectedSlot) and slot.factored:
            self._final(slot)  # the hook fires all the same; the layer's backward has handed over its factors
            return
        if grad is None:
            raise RuntimeError(f"another optimizer took the gradient of {slot.name}; call release() on that one first")
        self.take(slot, grad)
        self._final(slot)

    def _final(self, slot: FullSlot) -> None:
        if not self._sketching:
            self._together.final(slot)

    def stands_for(self, unsharded: Tensor, slot: ProjectedSlot) -> None:
        """Take the gradients of `unsharded`, of which the slot's parameter is sharded: they are not sent whole."""
        self._standing[unsharded] = slot
        self._hooks.append(after_gradient(unsharded, self._on_gradient))

    def _apply_now(self, slot: FullSlot) -> None:
        with span("update"):
            slot.complete()
            if not math.isfinite(squared := float(slot.squared_norm())):
                self._tally.refused += 1
                slot.discard()
                return
            self._tally.squares += squared
            self._apply(slot, Update(1.0, self._step_noise()))

    def _apply(self, slot: FullSlot, update: Update) -> None:
        self.torn = True
        self._tally.applied += 1
        due = isinstance(slot, ProjectedSlot) and slot.due
        self._tally.refreshed += due
        self.before_write(slot.parameter)
        with all_or_nothing(slot.state):
            slot.apply(update)
        if due:
            self._together.note_basis(slot)

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
        low_precision = [p for p in self.slots if self.stochastic and p.dtype in (torch.bfloat16, torch.int8)]
        if not low_precision:
            return None
        now = self.seed, self.clock
        if self._noise is None or self._noise.key != now:  # a state was loaded within a step
            self._noise = RoundingNoise(*now, low_precision[0].device)
        return self._noise
