"""Few of a model's blocks rehearsed for all: those alike are left out, and the trace is grown from those that stay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from galore.kernels.device import standing_for
from galore.trainer.fit.alike.grown import Blocks, Cut
from galore.trainer.fit.alike.streams import all_come
from galore.trainer.host.blocks import in_backward, streamed
from galore.trainer.memory.trace.trace import Trace
from galore.trainer.memory.trace.tracer import Tracer
from galore.trainer.models.checkpointing import blocks_of
from galore.trainer.optim import GaLoreAdamW
from galore.trainer.optim.projected import ProjectedSlot
from galore.trainer.optim.slot import FullSlot, Update

LEAST = 4  # blocks left out for which it is worth while
PLAIN = (bool, int, float, str, type(None), torch.dtype, torch.Size)
OWN = ("layer_idx", "layer_number", "layer_id", "training")  # attributes that say which block it is, not what it does


def stack_of(model: nn.Module) -> nn.ModuleList | None:
    """The list of all of `model`'s blocks; None where they are not in one."""
    blocks = blocks_of(model)
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    return next((each for each in lists if list(each) == blocks), None) if blocks else None


def choose(model: nn.Module, optimizer: GaLoreAdamW, clocks: Sequence[int]) -> Blocks | None:
    """Which blocks of `model` are enough for steps at those `clocks`; None where all are wanted.

    What is not like most of them stays, and what is beside it; the first two and the last two; and a pattern with one
    more.
    """
    stack = stack_of(model)
    if stack is None or _told_apart(model, len(stack)) or not _all_or_none_streamed(model, len(stack)):
        return None
    kinds = [_kind(block, optimizer, clocks) for block in stack]
    common, _ = Counter(kinds).most_common(1)[0]
    count = len(kinds)
    special = {0, count - 1} | {block for block, kind in enumerate(kinds) if kind != common}
    near = {block + step for block in special for step in (-1, 0, 1)}
    alike = [block for block in range(count) if block not in near]
    pattern = next((block for block in alike if block + 1 in alike), None)
    if pattern is None or len(alike) - 2 < LEAST:
        return None
    kept = [block for block in range(count) if block in (pattern, pattern + 1) or block in near]
    names = {module: name for name, module in model.named_modules()}
    return Blocks([names[block] for block in stack], kept, pattern)


def _told_apart(model: nn.Module, count: int) -> bool:
    """Whether the configuration says different things of the `count` blocks: models look some up by number.

    A mask or rotary positions by `layer_types[number]` would be another block's where blocks are left out.
    """
    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    lists = [each for part in (config, text) if part is not None for each in vars(part).values()]
    return any(
        isinstance(each, (list, tuple)) and len(each) == count and any(one != each[0] for one in each) for each in lists
    )


def _all_or_none_streamed(model: nn.Module, count: int) -> bool:
    """Whether blocks that wait on the host, if any do, have the same numbers there as in the model."""
    found = streamed(model)
    return found is None or len(found.blocks) == count


def _kind(block: nn.Module, optimizer: GaLoreAdamW, clocks: Sequence[int]) -> tuple[Any, ...]:
    """What a block does in steps at those `clocks` depends on."""
    modules = tuple((name, type(module), _plain(module)) for name, module in block.named_modules())
    tensors = tuple(
        (name, each.shape, each.stride(), each.dtype, each.requires_grad, _of_slot(optimizer, each, clocks))
        for name, each in (*block.named_parameters(), *block.named_buffers())
    )
    return modules, tensors


def _plain(thing: object) -> tuple[tuple[str, Any], ...]:
    return tuple((name, value) for name, value in vars(thing).items() if isinstance(value, PLAIN) and name not in OWN)


def _of_slot(optimizer: GaLoreAdamW, tensor: Tensor, clocks: Sequence[int]) -> tuple[Any, ...]:
    slot = optimizer.slots.get(tensor) if isinstance(tensor, nn.Parameter) else None
    if slot is None:
        return ()
    kind = type(slot), type(slot.inner), id(slot.group), slot.compensated
    if not isinstance(slot, ProjectedSlot):
        return kind
    parts = slot.subspace, slot.refresh, slot.transport, slot.residual
    due = tuple(slot.schedule.due(clock) for clock in clocks)
    return *kind, slot.rank, slot.factored, *map(type, parts), due


class Twin:
    """The place in the optimizer of a parameter that is like another's, whose gradients it is taken to have.

    It is there to be counted: the norm is taken over all, and what is done to one is done by its like. What is its own,
    such as a place on the host, stays.
    """

    def __init__(self, own: FullSlot, like: FullSlot) -> None:
        self._own, self._like, self.parameter = own, like, own.parameter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._like, name)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        yield from ()

    def complete(self) -> None: ...

    def apply(self, update: Update) -> None: ...

    def discard(self) -> None: ...


@dataclass
class _Turns:
    """Which block is at work, if any, and how often the step does what is done then."""

    trace: Trace
    blocks: Blocks
    cuts: list[Cut] = field(default_factory=list)
    block: int | None = None

    def to(self, block: int | None, *_: object) -> None:
        """What follows is done by `block`."""
        self.cuts.append((len(self.trace.events), block))
        self.block = block

    def times(self) -> int:
        """What the pattern does is done by all blocks left out, too."""
        return 1 + len(self.blocks.left_out) if self.block == self.blocks.pattern else 1

    @contextmanager
    def once(self) -> Iterator[None]:
        """A context in which what is done makes no storage and is done once, whoever is at work."""
        block, self.block = self.block, None
        try:
            yield
        finally:
            self.block = block


@contextmanager
def few(model: nn.Module, optimizer: GaLoreAdamW, tracer: Tracer, blocks: Blocks) -> Iterator[list[Cut]]:
    """A context in which `model` has the blocks kept alone, and the optimizer twins for the parameters of all others.

    Gives the cuts of the trace, as they come; what the pattern does is counted for all that are like it.
    """
    stack = stack_of(model)
    assert stack is not None
    modules, turns = list(stack), _Turns(tracer.trace, blocks)
    pattern = [*modules[blocks.pattern].parameters()]
    with ExitStack() as undone:
        for number in blocks.left_out:
            for parameter, like in zip(modules[number].parameters(), pattern, strict=True):
                if like in optimizer.slots:
                    optimizer.slots[parameter] = Twin(optimizer.slots[parameter], optimizer.slots[like])  # type: ignore[assignment]
        owners = {parameter: number for number, block in enumerate(modules) for parameter in block.parameters()}
        for parameter, slot in optimizer.slots.items():
            if not isinstance(slot, Twin):
                _watch_slot(slot, partial(turns.to, owners.get(parameter)))
        for number in blocks.kept:
            for handle in _watch_block(modules[number], partial(turns.to, number)):
                undone.callback(handle.remove)
        stack._modules = {str(number): modules[number] for number in blocks.kept}
        undone.callback(setattr, stack, "_modules", {str(number): each for number, each in enumerate(modules)})
        if (stream := streamed(model)) is not None:
            undone.enter_context(all_come(stream, blocks, turns.once))
        undone.enter_context(standing_for(turns.times))
        yield turns.cuts


def _watch_block(block: nn.Module, at_work: Callable[..., None]) -> Iterator[Any]:
    def after(module: nn.Module, args: Any, output: Any) -> None:
        """The backward of a block begins with the gradient of what it gave."""
        for each in output if isinstance(output, (tuple, list)) else (output,):
            if isinstance(each, Tensor) and each.requires_grad and not in_backward():
                each.register_hook(at_work)  # type: ignore[no-untyped-call]

    yield block.register_forward_pre_hook(at_work)
    yield block.register_forward_hook(after)


def _watch_slot(slot: FullSlot, at_work: Callable[..., None]) -> None:
    """Have it said whose turn it is, whenever the optimizer goes through its slots."""
    _before(slot, "complete", at_work)
    _before(slot, "apply", at_work)
    _before(slot, "discard", at_work)
    if isinstance(slot, ProjectedSlot):
        _before(slot.refresh, "finish_sketch", at_work)


def _before(thing: Any, method: str, call: Callable[..., None]) -> None:
    carry_out = getattr(thing, method)

    def called(*args: Any) -> Any:
        call()
        return carry_out(*args)

    setattr(thing, method, called)
