"""Host memory beside a device: what is held and moved is counted, and copies may be as late as they are waited for."""

from __future__ import annotations

import gc

import pytest
import torch

from galore.kernels.device import standing_for
from galore.kernels.host import Host, MetaHost, Waiting, aligned, host_of

DEVICES = [
    "cpu",
    "meta",
    pytest.param("cuda", marks=[pytest.mark.card, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]),
]


@pytest.mark.parametrize("device", DEVICES)
def test_bytes_are_counted_where_they_are_and_where_they_go(device: str) -> None:
    host = host_of(torch.device(device))
    one, other = host.take(100), host.take(50)
    there = torch.arange(8, device=device).float()
    rests = one.view(0, torch.float32, there.shape)
    done = host.send(rests, there)
    host.wait(done)
    host.bring(there, rests)
    host.settle()
    assert (host.held, host.most, host.sent, host.fetched) == (150, 150, 32, 32)
    del one, rests
    gc.collect()
    assert (host.held, host.most) == (50, 150)
    assert other.nbytes == 50


def test_a_copy_that_stands_for_many_counts_as_many() -> None:
    host, there = MetaHost(torch.device("meta")), torch.empty(8, device="meta")
    with standing_for(lambda: 3):
        host.send(None, there)
    host.fetch(there, None)
    assert (host.sent, host.fetched) == (96, 32)


def test_a_copy_comes_back_as_it_left() -> None:
    host, there = Host(torch.device("cpu")), torch.randn(3, 5).bfloat16()
    waiting = host.take(256)
    view = waiting.view(64, torch.bfloat16, there.shape)
    host.send(view, there)
    back = torch.empty_like(there)
    host.fetch(back, view)
    assert torch.equal(back, there)
    assert view is not None
    assert view.untyped_storage().data_ptr() != there.untyped_storage().data_ptr()


def test_on_meta_nothing_is_there() -> None:
    host = host_of(torch.device("meta"))
    assert isinstance(host, MetaHost)
    waiting: Waiting = host.take(1 << 40)
    assert waiting.bytes is None
    assert waiting.view(0, torch.int8, torch.Size((4,))) is None
    assert host.held == 1 << 40


def test_places_begin_where_cuda_s_own_do() -> None:
    assert [aligned(each) for each in (0, 1, 256, 257)] == [0, 256, 256, 512]


@pytest.mark.card
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_pinned_memory_is_as_large_as_asked_for() -> None:
    waiting = host_of(torch.device("cuda")).take(5000)
    assert waiting.bytes is not None
    assert waiting.bytes.is_pinned()
