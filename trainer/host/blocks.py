"""The blocks of a model streamed: their tensors lie in a few places on the device, and wait in host memory.

A tensor of block i is for good a view into place i mod N, whatever lies there: autograd's own views of it are right
whenever the block is there. Hooks bring a block before its forward, before its part of the backward, and before the
optimizer writes to it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from galore.kernels.host import Host, Waiting, aligned, host_of
from galore.trainer.host.places import Copy, Places

ATTRIBUTE = "_streamed_blocks"  # of the model


class Block(NamedTuple):
    """The bytes of a block on the host, and the part of its place that is of its size."""

    waiting: Waiting
    place: Tensor


class StreamedBlocks:
    """Blocks of a model, `count` of them on the device at a time."""

    def __init__(
        self, modules: Sequence[nn.Module], tensors: Sequence[Sequence[Tensor]], device: torch.device, count: int
    ) -> None:
        """Take the `tensors` of each of `modules` to the host and let them be views of the places on `device`.

        The tensors may lie anywhere; each is let go of before the next block is taken.
        """
        self.host: Host = host_of(device)
        self.places = Places(len(modules), count)
        self.sizes = [sum(aligned(tensor.nbytes) for tensor in each) for each in tensors]
        self.arena = [
            torch.empty(max(self.sizes[number::count]), dtype=torch.uint8, device=device) for number in range(count)
        ]
        self.blocks: list[Block] = []
        self._ready: list[Any] = [None] * count
        self._number: dict[int, int] = {}
        self._at_rest: dict[int, Tensor] = {}
        for number, each in enumerate(tensors):
            self.blocks.append(self._take(number, each))
        for number, module in enumerate(modules):
            module.register_forward_pre_hook(functools.partial(self._before, number))
            module.register_forward_hook(functools.partial(self._after, number))

    def holds(self, tensor: Tensor) -> bool:
        """Whether it is streamed."""
        return id(tensor) in self._number

    def change(self, tensor: Tensor) -> None:
        """Bring the block of `tensor`, which is about to be written to; nothing where it is not streamed."""
        number = self._number.get(id(tensor))
        if number is not None:
            self.arrive(number)
            self.places.changed.add(number)

    def flush(self) -> None:
        """Begin to send back what was changed."""
        self.carry_out(self.places.flush())

    def at_rest(self) -> Callable[[Tensor], Tensor]:
        """The tensor on the host that a streamed one stands for, any other as it is; what was changed is there."""
        self.flush()
        self.host.settle()
        return lambda tensor: self._at_rest.get(id(tensor), tensor)

    def forget(self) -> None:
        """What is at rest was written to: the device's copies are none of it."""
        self.places.forget()

    def arrive(self, number: int) -> None:
        """Bring a block, and begin to bring those that come after it."""
        ahead: Literal[1, -1] = -1 if in_backward() else 1
        self.carry_out(self.places.arrive(number, ahead))
        self.host.wait(self._ready[number % self.places.count])

    def carry_out(self, copies: Iterable[Copy]) -> None:
        """Begin each of them."""
        for way, number in copies:
            waiting, place = self.blocks[number]
            done = self.host.send(waiting.bytes, place) if way == "send" else self.host.fetch(place, waiting.bytes)
            self._ready[number % self.places.count] = done

    def _take(self, number: int, tensors: Sequence[Tensor]) -> Block:
        waiting, place = self.host.take(self.sizes[number]), self.arena[number % self.places.count]
        first = 0
        for tensor in tensors:
            if (rests := waiting.view(first, tensor.dtype, tensor.shape)) is not None:
                rests.copy_(tensor.detach())
                self._at_rest[id(tensor)] = rests
            self._number[id(tensor)] = number
            tensor.data = place[first : first + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
            first += aligned(tensor.nbytes)
        return Block(waiting, place[: self.sizes[number]])

    def _before(self, number: int, *_: Any) -> None:
        self.arrive(number)

    def _after(self, number: int, module: nn.Module, args: Any, output: Any) -> None:
        """The backward of a block begins with the gradient of what it gave."""
        if in_backward():
            return
        for tensor in output if isinstance(output, (tuple, list)) else (output,):
            if isinstance(tensor, Tensor) and tensor.requires_grad:
                tensor.register_hook(functools.partial(self._before, number))  # type: ignore[no-untyped-call]


def in_backward() -> bool:
    return bool(torch._C._current_graph_task_id() != -1)


def streamed(model: nn.Module) -> StreamedBlocks | None:
    """What streams the blocks of `model`; None where they are on the device."""
    found: StreamedBlocks | None = getattr(model, ATTRIBUTE, None)
    return found


def at_rest(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """`StreamedBlocks.at_rest` of a model, streamed or not: where to read, and to write, the values of its tensors."""
    found = streamed(model)
    return (lambda tensor: tensor) if found is None else found.at_rest()


def written_at_rest(model: nn.Module) -> None:
    """Let the device fetch anew what at rest was written to."""
    if (found := streamed(model)) is not None:
        found.forget()


def on_device(model: nn.Module, parameters: Sequence[Tensor] | None = None) -> Iterator[Tensor]:
    """Weights and buffers as they lie on the device: each block's place once. Give `parameters` where they are at hand:
    a walk through a model takes its time."""
    found = streamed(model)
    yield from found.arena if found is not None else ()
    tensors = (*(model.parameters() if parameters is None else parameters), *model.buffers())
    yield from (each for each in tensors if found is None or not found.holds(each))
