"""The same blocks on a stream that copies as late as it may: nothing is read, or written over, before it was waited for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from galore.kernels.host import Host
from galore.trainer.host import blocks as module
from galore.trainer.host.blocks import StreamedBlocks

BLOCKS = 5
RESIDENT = (lambda parameter: None, lambda: None)


class LateHost(Host):
    """Copies are carried out when one is waited for, and those before it. Until then what arrives is nan."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.pending: list[Callable[[], Any]] = []
        self.done = 0
        self.leaving: dict[int, int] = {}  # place → the last copy that reads it

    def fetch(self, to: Tensor, host: Tensor | None) -> int:
        self.wait(self.leaving.get(to.data_ptr(), 0))
        to.fill_(255)  # bytes of a nan
        return int(super().fetch(to, host))

    def send(self, host: Tensor | None, source: Tensor) -> int:
        self.leaving[source.data_ptr()] = done = int(super().send(host, source))
        return done

    def wait(self, done: int) -> None:
        while self.done < done:
            self.pending[self.done]()
            self.done += 1

    def settle(self) -> None:
        self.wait(len(self.pending))

    def _copy(self, to: Tensor | None, source: Tensor | None) -> int:
        assert to is not None
        assert source is not None
        self.pending.append(lambda: to.copy_(source))
        return len(self.pending)


def stack() -> nn.ModuleList:
    torch.manual_seed(0)
    return nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8)) for _ in range(BLOCKS))


def trained(
    blocks: nn.ModuleList, change: Callable[[Tensor], None], flush: Callable[[], None], recomputed: bool
) -> list[Tensor]:
    """Losses of some steps of plain SGD, and the weights' gradients."""
    kept = []
    for _ in range(3):
        x = torch.linspace(-1, 1, 24).view(3, 8).requires_grad_()
        for block in blocks:
            x = x + (checkpoint(block, x, use_reentrant=False) if recomputed else block(x))
        loss = x.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        kept.append(loss.detach())
        for parameter in blocks.parameters():
            assert parameter.grad is not None
            kept.append(parameter.grad)
            change(parameter)
            parameter.data.sub_(parameter.grad, alpha=0.01)
            parameter.grad = None
        flush()
        for parameter in blocks[-1].parameters():  # once more, what has begun to go back
            change(parameter)
            parameter.data.mul_(1.01)
    return kept


@pytest.mark.parametrize("recomputed", [False, True])
@pytest.mark.parametrize("count", [2, 3])
def test_nothing_is_touched_before_its_copy(monkeypatch: pytest.MonkeyPatch, recomputed: bool, count: int) -> None:
    expected = trained(stack(), *RESIDENT, recomputed)
    monkeypatch.setattr(module, "host_of", LateHost)
    blocks = stack()
    matrices = [[each for each in block.parameters() if each.ndim == 2] for block in blocks]
    streamed = StreamedBlocks(list(blocks), matrices, torch.device("cpu"), count)
    found = trained(blocks, streamed.change, streamed.flush, recomputed)
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
    whole, rest = stack(), streamed.at_rest()
    trained(whole, *RESIDENT, recomputed)
    assert all(
        torch.equal(rest(ours), theirs) for ours, theirs in zip(blocks.parameters(), whole.parameters(), strict=True)
    )


def test_a_copy_that_is_not_waited_for_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "host_of", LateHost)
    monkeypatch.setattr(LateHost, "wait", lambda self, done: None)
    blocks = stack()
    matrices = [[each for each in block.parameters() if each.ndim == 2] for block in blocks]
    streamed = StreamedBlocks(list(blocks), matrices, torch.device("cpu"), 2)
    assert not trained(blocks, streamed.change, streamed.flush, False)[0].isfinite()


def test_the_backward_asks_for_the_block_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block is on its way while the one after it is gone through."""
    blocks = stack()
    matrices = [[each for each in block.parameters() if each.ndim == 2] for block in blocks]
    streamed = StreamedBlocks(list(blocks), matrices, torch.device("cpu"), 2)
    found: list[tuple[int, list[int | None]]] = []
    arrive = streamed.arrive

    def seen(number: int) -> None:
        arrive(number)
        found.append((number, sorted(each for each in streamed.places.holds if each is not None)))

    monkeypatch.setattr(streamed, "arrive", seen)
    x = torch.ones(1, 8)
    for block in blocks:
        x = x + block(x)
    there = [(number, [number, min(number + 1, BLOCKS - 1)]) for number in range(BLOCKS - 1)]
    assert found == [*there, (BLOCKS - 1, [BLOCKS - 2, BLOCKS - 1])]
    found.clear()
    x.sum().backward()  # type: ignore[no-untyped-call]
    assert found == [(number, [max(number - 1, 0), max(number, 1)]) for number in reversed(range(BLOCKS))]


def test_a_parked_tensor_is_free_once_it_was_sent() -> None:
    host = LateHost(torch.device("cpu"))
    waiting = [host.take(4).view(0, torch.float32, torch.Size((1,))) for _ in range(3)]
    for number, each in enumerate(waiting):
        host.park(each, torch.full((1,), float(number)))
    assert host.done == 2
    assert [each.item() for each in waiting[:2] if each is not None] == [0.0, 1.0]
