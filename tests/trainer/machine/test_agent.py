"""The agent of torchrun is killed while its workers stand in each kind of wait: they end, and one of them says why."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch.distributed as dist

from galore.trainer.machine import agent
from galore.trainer.machine.signals import StopOnSignal
from galore.trainer.parallel.group import Group, RankLost, reaching

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes there have no parents")


def prepares(rank, folder):
    """One reads data, the other waits for it in a collective."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    is_there(rank, folder)
    if rank == 0:
        time.sleep(60)
    Group(rank, 2).from_first({})


def meets(rank, folder):
    """Both wait for a third that never comes."""
    is_there(rank, folder)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=3)


def trains(rank, folder):
    """Both would go on, and are asked to stop first."""
    with StopOnSignal(lambda text: None) as stop:
        is_there(rank, folder)
        while stop.requested is None:
            time.sleep(0.01)
    (folder / f"stopped {rank}").write_text(stop.requested.name)
    os._exit(75)


def saves_for_too_long(rank, folder):
    """Both were asked to stop, and are not done with it."""
    with StopOnSignal(lambda text: None):
        is_there(rank, folder)
        time.sleep(60)


def is_there(rank, folder):
    (folder / f"there {rank}").write_text(str(os.getpid()))


def as_agent(work, folder):
    """Start two workers, and be killed once they stand in `work`."""
    for rank in range(2):
        if os.fork() == 0:
            os.environ |= {"TORCHELASTIC_RUN_ID": "7", "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
            said = os.open(folder / f"said {rank}", os.O_WRONLY | os.O_CREAT)
            os.dup2(said, 2)
            agent.agent.cache_clear()
            agent.watch_agent.cache_clear()
            agent.watch_agent()
            work(rank, folder)
            os._exit(0)
    while len(list(folder.glob("there *"))) < 2:
        time.sleep(0.01)
    time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("work", [prepares, meets, trains, saves_for_too_long])
def test_no_worker_outlives_its_agent(tmp_path, monkeypatch, work):
    monkeypatch.setattr(agent, "LOOKS", 0.1)
    monkeypatch.setattr(agent, "GRACE", 0.5)
    if (child := os.fork()) == 0:
        try:
            as_agent(work, tmp_path)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    workers = [int((tmp_path / f"there {rank}").read_text()) for rank in range(2)]
    try:
        until = time.monotonic() + 10
        while any(map(lives, workers)) and time.monotonic() < until:
            time.sleep(0.02)
        assert not any(map(lives, workers))
    finally:
        for worker in filter(lives, workers):
            os.kill(worker, signal.SIGKILL)
    said = [(tmp_path / f"said {rank}").read_text() for rank in range(2)]
    assert said[1] == ""
    if work is trains:
        assert [(tmp_path / f"stopped {rank}").read_text() for rank in range(2)] == ["torchrun's end"] * 2
        assert said[0] == ""
    else:
        assert said[0].count("failed: torchrun, which started this process, is gone") == 1
        assert "--resume" in said[0]


def lives(worker):
    """Whether it is more than the number of one that nobody has waited for."""
    try:
        os.kill(worker, 0)
        stat = Path(f"/proc/{worker}/stat")
        return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_without_torchrun_nobody_is_watched(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    agent.agent.cache_clear()
    assert agent.agent() is None
    agent.leave_it_to_the_watch()
    agent.agent.cache_clear()


def test_what_breaks_because_the_agent_is_gone_is_left_to_the_watch(monkeypatch):
    slept = []
    monkeypatch.setattr(agent, "agent", lambda: -1)
    monkeypatch.setattr(agent.time, "sleep", slept.append)
    with pytest.raises(RankLost), reaching(Group(1, 2)):
        raise RuntimeError("Connection closed by peer")
    assert slept == [2 * agent.LOOKS]
