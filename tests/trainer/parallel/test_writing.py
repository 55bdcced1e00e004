"""Every rank writes its own files of a checkpoint: all of them are in it, or it is not there, and nobody waits."""

import errno
import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from galore.trainer.checkpoint import rotation
from galore.trainer.checkpoint.checkpoint import CheckpointFailed, newest_verified, save
from galore.trainer.checkpoint.parts import files
from galore.trainer.checkpoint.tensorfile import Parted
from galore.trainer.parallel.group import Group, RankLost
from galore.trainer.parallel.writing import writing

SIZE = 3
WHOLE = torch.arange(9.0).view(3, 3)


class Meeting:
    """Where ranks that are threads say something, and hear of all others: or that one of them was lost before it did."""

    def __init__(self) -> None:
        self.said: list[dict[int, object]] = []
        self.lost: set[int] = set()
        self.changed = threading.Condition()

    def lose(self, rank: int) -> None:
        with self.changed:
            self.lost.add(rank)
            self.changed.notify_all()

    def meet(self, rank: int, time: int, said: object) -> list[object]:
        with self.changed:
            if time == len(self.said):
                self.said.append({})
            here = self.said[time]
            if rank not in self.lost:
                here[rank] = said
            self.changed.notify_all()
            self.changed.wait_for(lambda: len(here) == SIZE or self.lost - here.keys(), 10)
            if len(here) < SIZE:
                raise RankLost("another of the 3 processes ended")
            return [here[each] for each in range(SIZE)]


class Ranks(Group):
    """A rank that is a thread."""

    def __init__(self, rank: int, meeting: Meeting) -> None:
        super().__init__(rank, SIZE, sharded=True)
        self.meeting, self.times = meeting, 0

    def _meet(self, said: object) -> list[object]:
        self.times += 1
        return self.meeting.meet(self.rank, self.times - 1, said)

    def from_first(self, document: object = None) -> object:
        return json.loads(str(self._meet(json.dumps(document))[0]))

    def gathered(self, eights: bytes) -> list[bytes]:
        assert len(eights) % 8 == 0
        return self._meet(eights)


MEETINGS: list[Meeting] = []


def saved_by_all(root: Path, step: int) -> dict[int, object]:
    """What each rank came to."""
    meeting, came_to = Meeting(), {}
    MEETINGS.append(meeting)

    def one(rank: int) -> None:
        own = Parted(
            WHOLE.shape, WHOLE.dtype, lambda: pytest.fail("gathered"), WHOLE[rank : rank + 1] * step, (rank, 0)
        )
        groups = {"model": {"w": own, "count": torch.tensor(step)}, "rng": {"cpu": torch.zeros(2)}}
        try:
            with writing(groups, Ranks(rank, meeting), root) as write:
                came_to[rank] = save(root, step, groups, {"step": step}, 2, write=write) if rank == 0 else None
        except CheckpointFailed as error:
            came_to[rank] = error
        except BaseException as error:
            meeting.lose(rank)  # as of a process that ends
            came_to[rank] = error

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(SIZE)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(20)
    assert not any(each.is_alive() for each in threads)
    return came_to


class Lost(BaseException):
    """The process ends, and with it its connections."""


def refusing(rank: int, kind: type[BaseException]) -> Callable[..., object]:
    """`write_file`, but for the part of one rank."""
    real = files.write_file

    def write_file(path: Path, parts: object) -> object:
        if f"model.part-{rank + 1}" in path.name:
            path.write_bytes(b"half")
            if kind is Lost:
                MEETINGS[-1].lose(rank)
            raise OSError(errno.ENOSPC, "No space left on device") if kind is OSError else kind
        return real(path, parts)

    return write_file


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rotation._trusted.clear()
    return tmp_path / "checkpoints"


def newest(root: Path) -> int:
    found, _ = newest_verified(root)
    assert found is not None
    assert torch.equal(found.load("model")["w"], WHOLE * found.step)
    return found.step


def test_all_files_are_in_the_manifest_and_older_ones_leave(root: Path) -> None:
    for step in (1, 2, 3):
        assert saved_by_all(root, step) == {0: root / f"step-{step:08d}", 1: None, 2: None}
    assert newest(root) == 3
    assert sorted(path.name for path in root.iterdir()) == ["step-00000002", "step-00000003"]
    listed = json.loads((root / "step-00000003/manifest.json").read_text())["files"]
    assert sorted(listed) == [*(f"model.part-{n}-of-3.safetensors" for n in (1, 2, 3)), "rng.safetensors", "state.json"]


@pytest.mark.parametrize("full", [0, 2])
def test_a_disk_that_is_full_for_one_rank(root: Path, monkeypatch: pytest.MonkeyPatch, full: int) -> None:
    saved_by_all(root, 1)
    with monkeypatch.context() as patch:
        patch.setattr(files, "write_file", refusing(full, OSError))
        came_to = saved_by_all(root, 2)
    assert isinstance(came_to[0], CheckpointFailed)
    where = " on rank 2" if full else ""
    assert f"step 2 was not saved: No space left on device{where} (" in str(came_to[0])
    assert (came_to[1], came_to[2]) == (None, None)
    assert sorted(path.name for path in root.iterdir()) == ["step-00000001"]
    assert newest(root) == 1
    saved_by_all(root, 3)
    assert newest(root) == 3


def test_a_disk_without_room_is_told_before_anybody_writes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("galore.trainer.checkpoint.diskspace.free_bytes", lambda directory: 1000)
    monkeypatch.setattr(files, "write_file", lambda *args: pytest.fail("wrote"))
    came_to = saved_by_all(root, 1)
    assert "1000 B are free" in str(came_to[0])
    assert (came_to[1], came_to[2]) == (None, None)


@pytest.mark.parametrize("broken", [0, 1])
def test_whatever_breaks_off_on_one_rank_is_heard_by_all(
    root: Path, monkeypatch: pytest.MonkeyPatch, broken: int
) -> None:
    """It need be no refusal of the disk. The rank itself then ends."""
    saved_by_all(root, 1)
    with monkeypatch.context() as patch:
        patch.setattr(files, "write_file", refusing(broken, MemoryError))
        came_to = saved_by_all(root, 2)
    assert isinstance(came_to[broken], MemoryError)
    assert broken == 0 or "canceled on rank 1" in str(came_to[0])
    assert isinstance(came_to[2], RankLost) if broken else came_to[2] is None
    assert newest(root) == 1
    assert sorted(path.name for path in root.iterdir()) == ["step-00000001"]


@pytest.mark.parametrize("lost", [0, 1])
def test_a_rank_that_is_lost_leaves_what_was_there(root: Path, monkeypatch: pytest.MonkeyPatch, lost: int) -> None:
    saved_by_all(root, 1)
    monkeypatch.setattr(files, "write_file", refusing(lost, Lost))
    came_to = saved_by_all(root, 2)
    assert all(isinstance(each, RankLost) for each in came_to.values())
    assert newest(root) == 1
    assert not list(root.glob("step-00000002"))
