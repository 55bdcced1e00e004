"""Values that no training should meet, put into a run on purpose. Each function is called in the child that trains."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

STEP = 4  # the one it happens in

Poison = Callable[[], None]


def in_loss(factor: float) -> Poison:
    """The loss of one step is multiplied; its gradient is, too."""

    def poison() -> None:
        from galore.trainer import step

        honest = step.summed_losses

        def summed(*arguments: Any) -> Any:
            sums = honest(*arguments)
            return sums._replace(total=sums.total * factor, cross_entropy=sums.cross_entropy * factor)

        _during_step(lambda run: _replaced(step, "summed_losses", summed))

    return poison


def in_gradient(value: float) -> Poison:
    """One element of the gradient that enters the last block is `value`; the loss is what it was."""

    def poison() -> None:
        def spoilt(gradient: torch.Tensor) -> torch.Tensor:
            gradient = gradient.clone()
            gradient.view(-1)[7] = value
            return gradient

        def hooked(module: Any, inputs: Any, out: torch.Tensor) -> None:
            if out.requires_grad:
                out.register_hook(spoilt)

        @contextmanager
        def hook(run: Any) -> Iterator[None]:
            norm = next(module for name, module in run.model.named_modules() if name.endswith("model.norm"))
            handle = norm.register_forward_hook(hooked)
            try:
                yield
            finally:
                handle.remove()

        _during_step(hook)

    return poison


def in_tensor(pick: Callable[[Any], torch.Tensor]) -> Poison:
    """One value of a weight or state becomes NaN after the step, as by a flipped bit in memory."""

    def poison() -> None:
        @contextmanager
        def spoil(run: Any) -> Iterator[None]:
            yield
            with torch.no_grad():
                pick(run).view(-1)[0] = math.nan

        _during_step(spoil)

    return poison


def a_weight(run: Any) -> torch.Tensor:
    return next(weight.data for weight in run.model.parameters() if weight.requires_grad)


def a_state(run: Any) -> torch.Tensor:
    states = run.optimizer.state_tensors().values()
    return next(
        state for state in states if state.is_floating_point() and state.element_size() > 1 and state.numel() > 1
    )


def in_sample() -> None:
    """The logits that a sample is drawn from are NaN."""
    from galore.trainer import loop

    honest = loop.sample

    def sample(model: Any, *arguments: Any, **words: Any) -> Any:
        handle = model.register_forward_hook(lambda module, inputs, out: out.logits.fill_(math.nan) and None)
        try:
            return honest(model, *arguments, **words)
        finally:
            handle.remove()

    loop.sample = sample


def in_evaluation() -> None:
    """What is held out scores 5,000 nats, of which there is no exponential."""
    from galore.trainer import loop

    honest = loop.score_held_out
    worse = {"loss_nats": 5000.0, "perplexity": math.inf}
    loop.score_held_out = lambda *arguments: replace(honest(*arguments), **worse)


def _during_step(context: Callable[[Any], Any]) -> None:
    from galore.trainer import loop

    honest = loop.attempt_step

    def attempt(run: Any, batch: Any, number: int) -> Any:
        if number != STEP:
            return honest(run, batch, number)
        with context(run):
            return honest(run, batch, number)

    loop.attempt_step = attempt


@contextmanager
def _replaced(module: Any, name: str, value: object) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)
