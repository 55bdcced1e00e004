"""Signs of life through a real store, of ranks that are threads here; of processes in tests/trainer/test_follow.py."""

import time

import pytest
import torch.distributed as dist

from galore.trainer.parallel import heartbeat
from galore.trainer.parallel.group import Group, RankLost, reaching
from galore.trainer.parallel.heartbeat import LOOKS, Heartbeat

TIMEOUT = 1.0
ENOUGH = 3 * TIMEOUT  # for the others to notice


@pytest.fixture
def store(monkeypatch):
    """What ranks meet by."""
    found = dist.TCPStore("127.0.0.1", 0, None, is_master=True)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(found.port))
    return found


@pytest.fixture
def hearts(store):
    """Three of them, and what each said at its end."""
    told = {}
    found = [Heartbeat(rank, 3, TIMEOUT, lambda text, rank=rank: told.update({rank: text})) for rank in range(3)]
    yield found, told
    for each in found:
        if each._threads[0].ident is not None:
            each.leave()


def begin(*hearts):
    for each in hearts:
        each.start()
    until = time.monotonic() + 20
    while (
        not all(each.last.keys() >= set(range(len(hearts))) - {each.rank} for each in hearts)
        and time.monotonic() < until
    ):
        time.sleep(0.01)


def test_who_falls_silent_is_told_by_the_first_that_is_not(hearts, monkeypatch):
    (first, second, third), told = hearts
    begin(first, second, third)
    monkeypatch.setattr(second, "keys", ["elsewhere"] * 3)  # its signs come nowhere
    time.sleep(ENOUGH)
    assert told[0].startswith(f"no sign of life for {TIMEOUT:g} seconds of rank 1 on ")
    assert told[2] == ""


def test_who_leaves_or_never_gave_a_sign_is_not_waited_for(hearts, store):
    (first, second, third), told = hearts
    store.set(third.keys[2], "7 an-earlier-attempt")
    begin(first, second)
    second.leave()
    time.sleep(ENOUGH)
    assert told == {}


def test_a_store_that_does_not_answer_is_told(hearts, monkeypatch):
    (first, second, third), told = hearts
    begin(first, second, third)
    monkeypatch.setattr(Heartbeat, "_look", lambda self, store: time.sleep(60))  # as one that is gone would hold it
    time.sleep(ENOUGH)
    assert told[0].startswith("what the processes meet by, at 127.0.0.1:")


def test_silence_is_counted_in_looks_of_ones_own(hearts):
    """A process that was stopped with all others wakes up first: nobody was silent."""
    first = hearts[0][0]
    first.last = {1: first.looks}
    assert first.interval * (LOOKS + 1) == pytest.approx(TIMEOUT)
    first._leaving.wait = lambda seconds: first.looks == LOOKS
    first._judge()
    assert hearts[1] == {}
    first._leaving.wait = lambda seconds: False
    first.heard = {0: b"1 here", 1: b"4 there"}
    first._judge()
    assert hearts[1] == {0: f"no sign of life for {TIMEOUT:g} seconds of rank 1 on there"}


def test_what_ends_a_process_says_so_once(monkeypatch):
    said, codes = [], []
    monkeypatch.setattr(heartbeat, "to_stderr", said.append)
    monkeypatch.setattr(heartbeat.os, "_exit", codes.append)
    heartbeat._end("rank 1 is silent")
    heartbeat._end("")
    assert codes == [1, 1]
    assert len(said) == 1
    assert said[0].startswith("failed: rank 1 is silent (parallel.heartbeat_timeout)")


def test_a_rank_that_is_lost_is_not_listened_for(store):
    """What is whole is saved then, and that may take its time."""
    group = Group(0, 2)
    with group.beating(None):
        assert group.heart is None
    with group.beating(TIMEOUT):
        heart = group.heart
        with pytest.raises(RankLost), reaching(group):
            raise RuntimeError("connection reset by peer")
        heart._threads[0].join(20)
        assert not heart._threads[0].is_alive()
