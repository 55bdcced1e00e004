"""The group of ranks, with one of them; what two do is in tests/trainer/optim/test_ranks.py."""

import itertools
import signal
import socket
from collections import Counter
from contextlib import nullcontext
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from galore.trainer.common.errors import RunFailed, UserError
from galore.trainer.machine.signals import Request
from galore.trainer.parallel.group import (
    Group,
    RankLost,
    ToldElsewhere,
    join,
    leave,
    meeting,
    reaching,
    refuse_in_group,
)
from galore.trainer.recipe.load import load_recipe


@pytest.fixture
def alone(tmp_path):
    """The group of one process, over a file."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield Group(0, 1)
    leave()
    assert not dist.is_initialized()


class Batch(list):
    def rows(self, start, stop):
        return Batch(self[start:stop])


@pytest.mark.parametrize("rows", range(3, 12))
@pytest.mark.parametrize("size", [1, 2, 3])
def test_every_row_is_one_ranks_and_shares_differ_by_one(rows, size):
    shares = [Group(rank, size).share(Batch(range(rows))) for rank in range(size)]
    assert list(itertools.chain(*shares)) == list(range(rows))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_sums_go_back_where_they_came_from_and_are_counted(alone):
    first, second = torch.arange(6.0).view(2, 3), torch.arange(4.0)
    for each in (first, second):
        alone.start_sum(each)()
    assert torch.equal(first, torch.arange(6.0).view(2, 3))
    assert torch.equal(second, torch.arange(4.0))
    alone.copy_first_([second])
    assert alone.sent == Counter(sum=40, copy=16)
    assert alone.any_of([True, False]) == [True, False]
    assert alone.any_of([]) == []
    assert alone.sent["sum"] == 48
    assert alone.waited > 0
    assert alone.backend == "gloo"


def test_what_the_first_says_everybody_hears(alone):
    assert alone.from_first({"root": "a/ü", "step": 3}) == {"root": "a/ü", "step": 3}
    assert alone.from_first(None) is None


@pytest.mark.parametrize("wish", [None, signal.SIGTERM, Request("a callback")])
def test_a_wish_is_everybodys(alone, wish):
    assert alone.first_of(wish) is wish


@pytest.mark.parametrize("told", [b"SIGTERM", b"torchrun's end"])
def test_the_wish_of_another_rank_has_its_name(alone, monkeypatch, told):
    monkeypatch.setattr(alone.__class__, "gathered", lambda self, own: [own, told.ljust(16, b"\0"), b"SIGHUP"])
    assert alone.first_of(None).name == told.decode()


def test_numbers_are_compared_by_their_bits_and_summed_once(alone, monkeypatch):
    assert alone.total(0.1) == 0.1
    assert alone.are_equal(float("nan"))
    monkeypatch.setattr(alone.__class__, "gathered", lambda self, own: [own, bytes(8)])
    assert alone.are_equal(0.0)
    assert not alone.are_equal(-0.0)


def test_dropout_differs_by_rank_and_is_the_same_again():
    drawn = {}
    for rank, step in [(0, 1), (1, 1), (0, 2), (0, 1)]:
        Group(rank, 2).seed_step(7, step)
        drawn.setdefault((rank, step), []).append(float(torch.rand(())))
    assert len({values[0] for values in drawn.values()}) == 3
    assert drawn[0, 1][0] == drawn[0, 1][1]


def test_a_lost_rank_is_one_error_without_torchs_words():
    with pytest.raises(RankLost, match="another of the 2 processes ended") as raised, reaching(Group(1, 2)):
        raise RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer")
    assert "gloo" not in str(raised.value)


@pytest.mark.parametrize("dtype", [torch.int16, torch.bfloat16, torch.float8_e4m3fn, torch.bool, torch.float64])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_a_copy_is_of_bytes_whatever_they_are_the_bytes_of(alone, monkeypatch, dtype, shape):
    """gloo broadcasts few types of numbers."""
    sent, broadcast = [], dist.broadcast
    monkeypatch.setattr(dist, "broadcast", lambda each, first: (sent.append(each.dtype), broadcast(each, first)))
    given = torch.ones(shape).to(dtype)
    alone.copy_first_([given])
    assert sent == [torch.uint8]
    assert alone.sent["copy"] == given.nbytes
    sent.clear()
    monkeypatch.setattr(dist, "broadcast", lambda each, first: each.zero_())
    alone.copy_first_([given])
    assert not given.float().any()


@pytest.mark.parametrize(
    "said",
    [
        "[../third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:4",
        "[../gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 1800000ms for recv operation to complete",
        "Broken pipe",
        "Application timeout caused pair closure",
    ],
)
def test_what_gloo_says_of_a_connection_is_a_lost_rank(said):
    with pytest.raises(RankLost), reaching(Group(1, 2)):
        raise RuntimeError(said)
    with pytest.raises(RankLost), reaching(Group(1, 2)):
        raise dist.DistBackendError("NCCL error in: NCCLUtils.hpp:272")


@pytest.mark.parametrize("said", ["Invalid scalar type", "CUDA out of memory. Tried to allocate 2.00 GiB"])
def test_an_error_that_is_no_lost_connection_keeps_its_own_text(said):
    with pytest.raises(RuntimeError, match=said) as raised, reaching(Group(1, 2)):
        raise RuntimeError(said)
    assert not isinstance(raised.value, RankLost)


def test_a_store_whose_agent_is_gone_is_not_looked_for_for_hours(monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(closed.getsockname()[1]), "RANK": "0"}
    for name, value in ({"TORCHELASTIC_USE_AGENT_STORE": "True", "WORLD_SIZE": "2"} | where).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("galore.trainer.parallel.group.ANSWER", timedelta(seconds=0.3))
    with pytest.raises(RankLost, match=r"does not answer at 127\.0\.0\.1"):
        join("cpu")


def test_a_number_of_processes_without_a_place_to_meet_is_refused(monkeypatch):
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        UserError, match=r"WORLD_SIZE: says 2 processes, and RANK, MASTER_ADDR, MASTER_PORT are not set"
    ):
        join("cpu")


def test_one_process_is_no_group(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert join("cpu") is None
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert join("cpu") is None


class Heard(Group):
    """A sharded group, of which is known with which exit codes its ranks leave a meeting."""

    def gathered(self, eights):
        codes = [1 if rank in (0, self.rank) and self.same else 0 for rank in range(self.size)]
        codes[self.rank] = int.from_bytes(eights, "little")
        return [code.to_bytes(8, "little") for code in codes]


@pytest.mark.parametrize(
    ("rank", "same", "raised"),
    [(0, True, RunFailed), (1, True, ToldElsewhere), (0, False, RunFailed), (1, False, RunFailed)],
)
def test_an_error_that_all_ranks_meet_is_told_by_the_first(rank, same, raised):
    group = Heard(rank, 2, sharded=True)
    group.same = same
    with pytest.raises(UserError) as caught, meeting(group):
        raise RunFailed("no checkpoint in it is good")
    assert type(caught.value) is raised
    assert caught.value.exit_code == 1


def test_who_meets_no_error_goes_on_and_outside_of_a_sharded_group_each_error_is_ones_own():
    group = Heard(1, 2, sharded=True)
    group.same = True
    with meeting(group):
        pass
    for apart in (None, Group(1, 2)):
        with pytest.raises(RunFailed), meeting(apart):
            raise RunFailed("none is good")


@pytest.mark.parametrize(
    ("micro", "more", "refused"),
    [
        (8, [], True),
        (4, [], False),
        (8, ["optim.proj_type=random"], False),
        (8, ["optim.method=full"], False),
        (8, ["optim.refresh=delayed"], False),
    ],
)
def test_a_refresh_that_sees_the_first_micro_batch_needs_it_whole_in_a_share(micro, more, refused):
    sizes = ["train.global_batch_size=8", f"train.micro_batch_size={micro}"]
    recipe = load_recipe("demo", ["optim.refresh=first-micro-batch", *sizes, *more]).recipe
    with pytest.raises(UserError, match="the first 8 sequences") if refused else nullcontext() as caught:
        refuse_in_group(recipe, Group(0, 2))
    if refused:
        assert "train.micro_batch_size: 4" in caught.value.fix
