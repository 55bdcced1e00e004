"""Inputs of recomputed blocks on the host: in order, one ahead, and never touched before a copy is done."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from galore.trainer.models.offload import Away, CudaCopies, NoCopies, OffloadingCheckpoint

BLOCKS = 5


class LateCopies:
    """A stream that carries out its copies as late as it may: when one is waited for, and those before it.

    A source that is gone by then, or a result that is read before, shows: as an error, or as NaN.
    """

    def __init__(self) -> None:
        self.log: list[str] = []
        self.pending: list[Callable[[], None]] = []
        self.done = 0
        self.numbers: dict[int, int] = {}  # host tensor → of the block

    def send(self, tensor: Tensor) -> tuple[Tensor, int]:
        host = torch.full_like(tensor, float("nan"))
        number = self.numbers[id(host)] = len(self.numbers)
        self.log.append(f"send {number}")
        return host, self._later(host, weakref.ref(tensor))

    def fetch(self, host: Tensor) -> tuple[Tensor, int]:
        tensor = torch.full_like(host, float("nan"))
        self.log.append(f"fetch {self.numbers[id(host)]}")
        return tensor, self._later(tensor, weakref.ref(host))

    def wait(self, done: int) -> None:
        while self.done < done:
            self.pending[self.done]()
            self.done += 1

    def _later(self, to: Tensor, source: weakref.ref[Tensor]) -> int:
        reference = weakref.ref(to)

        def copy() -> None:
            tensor, into = source(), reference()
            assert tensor is not None, "its memory was given back before it was copied"
            if into is not None:
                into.copy_(tensor)

        self.pending.append(copy)
        return len(self.pending)


def stack() -> nn.ModuleList:
    torch.manual_seed(0)
    return nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8)) for _ in range(BLOCKS))


def forward(blocks: nn.ModuleList, checkpoint: Any) -> Tensor:
    x = torch.linspace(-1, 1, 24).view(3, 8).requires_grad_()
    for block in blocks:
        x = x + checkpoint(block, x)
    return x.square().sum()


def gradients(blocks: nn.ModuleList, checkpoint: Any, times: int = 1) -> list[Tensor]:
    for _ in range(times):
        forward(blocks, checkpoint).backward()
    return [parameter.grad for parameter in blocks.parameters() if parameter.grad is not None]


def offloading(copies: Any) -> OffloadingCheckpoint:
    return OffloadingCheckpoint(copies, use_reentrant=False)


@pytest.mark.parametrize("times", [1, 3])
def test_late_copies_change_no_gradient(times: int) -> None:
    expected = gradients(stack(), lambda block, x: block(x), times)
    for copies in (LateCopies(), NoCopies()):
        found = gradients(stack(), offloading(copies), times)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_the_last_stays_and_each_comes_back_while_the_one_behind_it_is_recomputed() -> None:
    copies, blocks = LateCopies(), stack()
    loss = forward(blocks, offloading(copies))
    assert copies.log == [f"send {number}" for number in range(BLOCKS)]
    copies.log.clear()
    for number, block in enumerate(blocks):
        block.register_forward_pre_hook(lambda *_, number=number: copies.log.append(f"recompute {number}"))
    loss.backward()
    assert copies.log == [
        "fetch 3", "recompute 4", "fetch 2", "recompute 3", "fetch 1", "recompute 2", "fetch 0", "recompute 1",
        "recompute 0",
    ]  # fmt: skip


def test_two_at_most_are_on_the_device_and_none_is_left() -> None:
    alive: weakref.WeakSet[Away] = weakref.WeakSet()

    class Watched(LateCopies):
        def send(self, tensor: Tensor) -> tuple[Tensor, int]:
            found = super().send(tensor)
            counts.append(on_device())
            return found

    def on_device() -> int:
        return sum(away.device is not None for away in alive)

    counts: list[int] = []
    checkpoint = offloading(Watched())
    pack = checkpoint._pack

    def packed(tensor: Tensor) -> Away | Tensor:
        away = pack(tensor)
        if isinstance(away, Away):
            alive.add(away)
        return away

    checkpoint._pack = packed  # type: ignore[method-assign]
    checkpoint.fetched = lambda tensor: counts.append(on_device())
    gradients(stack(), checkpoint, times=2)
    assert max(counts) <= 1, "beside the one in use"
    assert not alive, "nothing outlives the backward"


def test_what_is_empty_is_kept_and_no_turn_of_its_own() -> None:
    class MarkedBefore(OffloadingCheckpoint):
        """As a checkpoint that keeps an empty tensor beside each input."""

        def __call__(self, function: Any, *args: Any) -> Any:
            with saved_tensors_hooks(self._pack, self._unpack):
                mark = args[0].new_zeros(0, requires_grad=True).square().sum()
            return super().__call__(function, *args) + mark

    copies = LateCopies()
    forward(stack(), MarkedBefore(copies, use_reentrant=False)).backward()
    plain = LateCopies()
    forward(stack(), offloading(plain)).backward()
    assert copies.log == plain.log


def test_what_comes_back_is_told() -> None:
    told: list[int] = []
    checkpoint = offloading(LateCopies())
    checkpoint.fetched = lambda tensor: told.append(tensor.numel())
    gradients(stack(), checkpoint)
    assert told == [24] * (2 * BLOCKS - 1)  # each when it is used, and all but the last when it is fetched


def test_a_second_backward_takes_it_from_the_host_again() -> None:
    blocks = stack()
    loss = forward(blocks, offloading(LateCopies()))
    first = torch.autograd.grad(loss, list(blocks.parameters()), retain_graph=True)
    second = torch.autograd.grad(loss, list(blocks.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_two_graphs_at_a_time() -> None:
    blocks, others = stack(), stack()
    expected = gradients(others, lambda block, x: block(x), times=2)
    checkpoint = offloading(LateCopies())
    one, two = forward(blocks, checkpoint), forward(blocks, checkpoint)
    one.backward()
    two.backward()
    found = [parameter.grad for parameter in blocks.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True) if a is not None)


def test_a_copy_under_way_is_waited_for_when_the_backward_fails() -> None:
    copies, blocks = LateCopies(), stack()
    loss = forward(blocks, offloading(copies))

    def fails(*_: object) -> None:
        raise RuntimeError("no memory")

    blocks[3].register_forward_pre_hook(fails)
    with pytest.raises(RuntimeError, match="no memory"):
        loss.backward()
    del loss
    assert copies.done == len(copies.pending), "the memory it writes to is somebody else's now"


# -- CUDA's streams, as they are called


class FakeCuda:
    """`torch.cuda` as far as it is used, with a log of what happens on which stream."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.running = "computation"

    def Stream(self, device: torch.device) -> Any:  # noqa: N802 - torch's name
        return FakeStream(self, "side")

    def current_stream(self, device: torch.device) -> Any:
        return FakeStream(self, self.running)

    @contextmanager
    def stream(self, stream: FakeStream) -> Iterator[None]:
        before, self.running = self.running, stream.name
        yield
        self.running = before


class FakeStream:
    def __init__(self, cuda: FakeCuda, name: str) -> None:
        self.cuda, self.name = cuda, name

    def wait_stream(self, other: FakeStream) -> None:
        self.cuda.log.append(f"{self.name} waits for {other.name}")

    def wait_event(self, event: str) -> None:
        self.cuda.log.append(f"{self.name} waits for event of {event}")

    def record_event(self) -> str:
        self.cuda.log.append(f"event on {self.name}")
        return self.name


def test_copies_run_on_the_side_after_what_makes_them_and_memory_is_the_computations(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuda, empty_like, copy = FakeCuda(), torch.empty_like, Tensor.copy_
    for name in ("Stream", "current_stream", "stream"):
        monkeypatch.setattr(torch.cuda, name, getattr(cuda, name))

    def made(like: Tensor, device: Any, pin_memory: bool = False) -> Tensor:
        cuda.log.append(f"memory on {device}{', pinned' * pin_memory}, by {cuda.running}")
        return empty_like(like)

    def copied(into: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
        cuda.log.append(f"copy on {cuda.running}{', not blocking' * non_blocking}")
        return copy(into, source)

    monkeypatch.setattr(torch, "empty_like", made)
    monkeypatch.setattr(Tensor, "copy_", copied)
    copies = CudaCopies(torch.device("cuda"))
    x = torch.arange(3.0)
    host, done = copies.send(x)
    copies.wait(done)
    back, done = copies.fetch(host)
    copies.wait(done)
    assert torch.equal(back, x)
    beside = ["side waits for computation", "copy on side, not blocking", "event on side"]
    wait = "computation waits for event of side"
    assert cuda.log == [
        "memory on cpu, pinned, by computation", *beside, wait, "memory on cuda, by computation", *beside, wait
    ]  # fmt: skip
