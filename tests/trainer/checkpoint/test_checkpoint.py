"""A checkpoint is whole and verified, or it is not there."""

import errno
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from torch import Tensor

from galore.trainer.checkpoint import checkpoint, manifest, rotation
from galore.trainer.checkpoint.checkpoint import CheckpointFailed, Skipped, newest_verified, save, told
from galore.trainer.checkpoint.parts import files
from galore.trainer.common import durable
from galore.trainer.common.errors import RunFailed


def _tensors(step: int) -> dict[str, dict[str, Tensor]]:
    weights = torch.full((16, 8), float(step))
    return {
        "model": {"w": weights.to(torch.bfloat16), "transposed": weights.T},
        "optimizer": {"m": weights, "codes": torch.arange(9, dtype=torch.uint8), "count": torch.tensor(step)},
    }


def _save(root: Path, step: int, keep: int = 2, **state: Any) -> Path:
    return save(root, step, _tensors(step), {"step": step, "rate": 0.1 + step, **state}, keep)


def _names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def _steps(root: Path) -> list[int]:
    return [step for step, _ in rotation.step_directories(root)]


def _newest(root: Path) -> int | None:
    found, _ = newest_verified(root)
    if found is None:
        return None
    assert found.state["rate"] == 0.1 + found.step
    assert found.load("optimizer")["count"].item() == found.step
    return found.step


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rotation._trusted.clear()
    return tmp_path / "checkpoints"


def test_round_trip(root: Path) -> None:
    path = _save(root, 7)
    assert path == root / "step-00000007"
    found, skipped = newest_verified(root)
    assert found is not None
    assert (found.step, found.path, skipped) == (7, path, [])
    assert found.groups == ("model", "optimizer")
    for group, members in _tensors(7).items():
        loaded = found.load(group)
        assert loaded.keys() == members.keys()
        for name, tensor in members.items():
            assert loaded[name].dtype == tensor.dtype
            assert torch.equal(loaded[name], tensor)
    with pytest.raises(RunFailed, match="no 'projectors'; it holds model, optimizer"):
        found.load("projectors")


def test_no_checkpoint_yet(root: Path) -> None:
    assert newest_verified(root) == (None, [])
    root.mkdir()
    assert newest_verified(root) == (None, [])


def test_only_json_and_safetensors(root: Path) -> None:
    path = _save(root, 1)
    assert sorted(p.name for p in path.iterdir()) == [
        "manifest.json", "model.safetensors", "optimizer.safetensors", "state.json",
    ]  # fmt: skip


# --- damage -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
def test_a_flipped_bit_is_never_loaded(root: Path, name: str) -> None:
    _save(root, 1)
    path = _save(root, 2) / name
    content = path.read_bytes()
    for position in range(0, 8 * len(content), 8 * len(content) // 40):
        changed = bytearray(content)
        changed[position // 8] ^= 1 << position % 8
        path.write_bytes(changed)
        found, skipped = newest_verified(root)
        assert found is not None
        assert found.step == 1, f"bit {position} of {name}"
        assert [s.path for s in skipped] == [path.parent]
        assert name in skipped[0].reason


def test_every_byte_of_the_manifest_counts(root: Path) -> None:
    path = save(root, 2, {}, {}, keep=2) / "manifest.json"
    content = path.read_bytes()
    for position in range(len(content)):
        changed = bytearray(content)
        changed[position] ^= 1 << position % 8
        path.write_bytes(changed)
        assert newest_verified(root)[0] is None, f"byte {position}"


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def _lengthen(path: Path) -> None:
    os.truncate(path, path.stat().st_size + 1)


def _link_elsewhere(path: Path) -> None:
    elsewhere = path.parents[2] / path.name
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def _edit_manifest(**changes: Any) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        location = path.with_name("manifest.json")
        content = json.loads(location.read_text()) | changes
        location.write_text(json.dumps(content))

    return edit


ELSEWHERE = {"../../secret": {"bytes": 1, "sha256": "0" * 64}}


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_truncate, r"model.safetensors has [\d,]+ bytes, not [\d,]+"),
        (_lengthen, r"model.safetensors has [\d,]+ bytes, not [\d,]+"),
        (Path.unlink, "model.safetensors is missing"),
        (_link_elsewhere, "model.safetensors is not a regular file"),
        (lambda path: path.with_name("manifest.json").unlink(), "no manifest.json"),
        (lambda path: path.with_name("manifest.json").write_text("{"), "manifest.json is not readable"),
        (lambda path: path.with_name("manifest.json").write_text("[" * 100_000), "manifest.json is not readable"),
        (lambda path: path.with_name("manifest.json").write_bytes(b"\xff\x00"), "manifest.json is not readable"),
        (_edit_manifest(version=2), "format version 2; this galore reads version 1"),
        (_edit_manifest(step=3), "manifest.json does not match its own hash"),
        (_edit_manifest(files={}), "manifest.json does not match its own hash"),
        (_edit_manifest(files=ELSEWHERE), "manifest.json is not readable: files"),
        (_edit_manifest(files={"/etc/passwd": {"bytes": 1, "sha256": "0" * 64}}), "manifest.json is not readable"),
    ],
)
def test_damage_is_named_and_the_one_before_is_taken(root: Path, damage: Callable[[Path], None], reason: str) -> None:
    _save(root, 1)
    damage(_save(root, 2) / "model.safetensors")
    found, skipped = newest_verified(root)
    assert found is not None
    assert found.step == 1
    assert len(skipped) == 1
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(skipped[0].reason)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EMFILE, errno.EACCES])
@pytest.mark.parametrize("name", ["manifest.json", "model.safetensors", "state.json"])
def test_what_cannot_be_read_is_not_damaged(
    root: Path, unreadable: list[tuple[str, int]], name: str, number: int
) -> None:
    _save(root, 1)
    _save(root, 2)
    unreadable.append((name, number))
    with pytest.raises(
        RunFailed, match=rf"cannot be read: {os.strerror(number)}; nothing was changed\n.*try again"
    ) as error:
        newest_verified(root)
    assert name in error.value.where
    assert error.value.exit_code == 1


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("unable to open file </x/model.safetensors> in read-only mode: Input/output error (5)"),
        SafetensorError("Error while deserializing header: incomplete metadata"),
        OSError(errno.EIO, os.strerror(errno.EIO)),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_file_that_fails_once_it_is_verified(root: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Whatever its reader raises: the disk's refusal has no errno there."""
    _save(root, 1)
    found, _ = newest_verified(root)
    assert found is not None

    def refuse(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(files, "safe_open", refuse)
    with pytest.raises(RunFailed, match="cannot be read, which it could a moment ago") as told:
        found.load("model")
    assert told.value.where.endswith("model.safetensors")
    monkeypatch.setattr(error, "args", ("DefaultCPUAllocator: can't allocate memory",))
    if type(error) is RuntimeError:
        with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
            found.load("model")


def test_a_manifest_cannot_lead_out_of_its_directory(root: Path) -> None:
    """Also one that is consistent in itself: made with the right hashes."""
    with pytest.raises(ValueError, match="String should match pattern"):
        manifest.Manifest.of(1, {"../x": durable.Written(1, "0" * 64)})


def test_a_renamed_directory_is_not_another_step(root: Path) -> None:
    _save(root, 1).rename(root / "step-00000009")
    found, skipped = newest_verified(root)
    assert found is None
    assert "renamed" in skipped[0].reason


# --- rotation ---------------------------------------------------------------------------------------------------


def test_the_newest_by_step_are_kept(root: Path) -> None:
    for step in (5, 90, 100, 1000):
        path = _save(root, step, keep=3)
        os.utime(path, (1, 9_000_000_000 - step))  # file times must not matter
    assert _steps(root) == [1000, 100, 90]


def test_a_damaged_checkpoint_does_not_push_out_a_good_one(root: Path) -> None:
    for step in (1, 2):
        _save(root, step)
    _flip(root / "step-00000002" / "model.safetensors")
    _save(root, 3)
    assert _steps(root) == [3, 2, 1]  # 2 looks newer than 1, but 1 is the second good one
    _save(root, 4)
    assert _steps(root) == [4, 3]


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_rotation_hashes_a_checkpoint_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[str] = []
    monkeypatch.setattr(rotation, "verify", lambda path: hashed.append(path.name) or manifest.verify(path))
    for step in (1, 2, 3):
        _save(root, step)
    assert hashed == []  # written by this process
    rotation._trusted.clear()
    for step in (4, 5, 6):
        _save(root, step, keep=3)
    assert hashed == ["step-00000003", "step-00000002"]


def test_keep_is_never_less_than_two(root: Path) -> None:
    with pytest.raises(ValueError, match="keep is 1"):
        _save(root, 1, keep=1)
    assert not root.exists()


def test_an_identical_checkpoint_is_left_alone(root: Path) -> None:
    before = _save(root, 1).stat().st_ino
    assert _save(root, 1).stat().st_ino == before


def test_a_different_or_damaged_checkpoint_of_the_same_step_is_replaced(root: Path) -> None:
    _save(root, 1)
    _save(root, 1, note="another")
    found, skipped = newest_verified(root)
    assert found is not None
    assert found.state["note"] == "another"
    _flip(found.path / "state.json")
    _save(root, 1, note="third")
    found, skipped = newest_verified(root)
    assert found is not None
    assert (found.state["note"], skipped) == ("third", [])
    assert _names(root) == ["step-00000001"]


def test_the_first_that_is_not_damaged_may_be_one_that_cannot_be_read_just_now(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (1, 2, 3):
        _save(root, step, keep=9)
    _flip(root / "step-00000002" / "state.json")
    assert rotation.first_undamaged(root, [7, 2, 3, 1]) == 3
    assert rotation.first_undamaged(root, [7, 2, 3, 1], known=7) == 7
    assert rotation.first_undamaged(root, [7, 2]) is None

    def verify(path: Path) -> manifest.Manifest:
        raise OSError(errno.EIO, "Input/output error", str(path))

    rotation._trusted.clear()
    monkeypatch.setattr(rotation, "verify", verify)
    assert rotation.first_undamaged(root, [7, 2]) == 2
    assert not rotation.is_good(root / "step-00000002")


@pytest.mark.parametrize(("place", "name"), [(manifest, "open_regular"), (checkpoint, "read_bounded")])
def test_one_that_is_deleted_while_it_is_read_is_passed_over(
    root: Path, monkeypatch: pytest.MonkeyPatch, place: Any, name: str
) -> None:
    for step in (1, 2):
        _save(root, step)
    real = getattr(place, name)

    def late(path: Path, *arguments: Any, **more: Any) -> Any:
        if path.parent.name == "step-00000002":
            shutil.rmtree(path.parent)
        return real(path, *arguments, **more)

    monkeypatch.setattr(place, name, late)
    found, skipped = newest_verified(root)
    assert found is not None
    assert found.step == 1
    assert [(each.path.name, each.reason[-10:]) for each in skipped] == [("step-00000002", "is missing")]


# --- kills ------------------------------------------------------------------------------------------------------


def _killed_at(operation: int, action: Callable[[], object]) -> bool:
    """Carry out `action` in a forked child that dies before its n-th operation on the disk; False if it had fewer."""
    child = os.fork()
    if child == 0:
        with suppress(BaseException):
            _die_before(operation)
            action()
            os._exit(0)
        os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 9)
    return status == 9


def _die_before(operation: int) -> None:
    left = operation

    def mortal(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                os._exit(9)
            return function(*args, **kwargs)

        return call

    checkpoint.write_file = files.write_file = mortal(files.write_file)
    for name in ("fsync", "rename", "unlink", "rmdir", "mkdir"):
        setattr(os, name, mortal(getattr(os, name)))


def _every_kill(root: Path, action: Callable[[], object]) -> Iterator[int]:
    """Yields after each possible kill of `action` on a fresh copy of what `root` held at first."""
    backup = root.with_name("backup")
    shutil.copytree(root, backup)
    for operation in range(1000):
        if not _killed_at(operation, action):
            return
        yield operation
        shutil.rmtree(root)
        shutil.copytree(backup, root)


def test_all_is_on_the_disk_before_the_name_and_the_name_before_anything_goes(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a power cut leaves: nobody else syncs, and a rename may reach the disk before what was written earlier."""
    _save(root, 1)
    _save(root, 2)
    events: list[tuple[str, str]] = []
    fsync, rename = os.fsync, os.rename

    def synced(number: int) -> None:
        events.append(("sync", Path(f"/proc/self/fd/{number}").readlink().name))
        fsync(number)

    def renamed(old: Any, new: Any) -> None:
        events.append(("rename", Path(new).name))
        rename(old, new)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", renamed)
    saved = _save(root, 3)
    inside = sorted(path.name for path in saved.iterdir())
    name = events.index(("rename", saved.name))
    assert sorted(events[: name - 1]) == [("sync", each) for each in inside]
    assert events[name - 1] == ("sync", f".tmp-{saved.name}")
    assert events[name + 1] == ("sync", root.name)
    assert events[name + 2 :] == [("rename", ".tmp-gone-step-00000001"), ("sync", root.name)]


def test_killed_anywhere_in_a_save(root: Path) -> None:
    """Two good checkpoints before, two good ones at any moment of the third, and the next save tidies up."""
    _save(root, 1)
    _save(root, 2)
    outcomes = []
    for moment in _every_kill(root, lambda: _save(root, 3)):
        good = [step for step, path in rotation.step_directories(root) if rotation.is_good(path)]
        assert len(good) >= 2, moment
        assert all(rotation.is_good(path) for _, path in rotation.step_directories(root)), moment
        outcomes.append(_newest(root))
        _, skipped = newest_verified(root)
        assert [s.path.name[:5] for s in skipped] == [".tmp-"] * len(list(root.glob(".tmp-*"))), moment
        assert _newest(root) == max(good)
        _save(root, 4)
        assert _names(root) == [f"step-{step:08d}" for step in (max(good), 4)], moment
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {2, 3}


def test_killed_anywhere_while_the_only_checkpoint_is_replaced(root: Path) -> None:
    _save(root, 1)
    notes = []
    for moment in _every_kill(root, lambda: _save(root, 1, note="new")):
        found, _ = newest_verified(root)
        assert found is not None, moment
        notes.append(found.state.get("note"))
        _save(root, 1, note="newer")
        assert _names(root) == ["step-00000001"], moment
    assert notes == sorted(notes, key=lambda note: note == "new")
    assert set(notes) == {None, "new"}


# --- what cannot be deleted -------------------------------------------------------------------------------------


def _hold(patch: pytest.MonkeyPatch, *names: str) -> None:
    """Let the content of directories of these names stay, as a file does that somebody reads over NFS."""
    real = shutil.rmtree

    def rmtree(path: Path, *arguments: Any, **more: Any) -> None:
        if path.name not in names:
            real(path, *arguments, **more)
        elif not more.get("ignore_errors"):
            raise OSError(errno.ENOTEMPTY, "Directory not empty", str(path))

    patch.setattr(shutil, "rmtree", rmtree)


def _left(root: Path, name: str) -> None:
    (root / name).mkdir()
    (root / name / ".nfs0001").write_text("")


def test_what_cannot_be_deleted_of_an_older_one_stops_no_save_and_no_rotation(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (1, 2):
        _save(root, step)
    for name in (".tmp-gone-step-00000001", ".tmp-step-00000002"):
        _left(root, name)
    _hold(monkeypatch, ".tmp-gone-step-00000001")
    for step in (3, 4):
        _save(root, step)
        assert _names(root) == [".tmp-gone-step-00000001", f"step-{step - 1:08d}", f"step-{step:08d}"]


def test_an_older_one_that_cannot_be_deleted_is_told_and_the_newest_is_saved(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (1, 2, 3):
        _save(root, step, keep=3)
    doomed = root / ".tmp-gone-step-00000001"
    _hold(monkeypatch, doomed.name)
    told = list[str]()
    for step in (4, 5):
        save(root, step, _tensors(step), {"step": step, "rate": 0.1 + step}, keep=2, tell=told.append)
        assert (_newest(root), _steps(root)) == (step, [step, step - 1])
    assert told == [
        f"step-00000004 was saved, but an older checkpoint could not be deleted: {doomed}: Directory not empty; "
        "delete it by hand, or the disk fills up"
    ]


def test_what_cannot_be_deleted_of_a_damaged_one_of_its_step_stops_no_save(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _flip(_save(root, 1) / "state.json")
    _hold(monkeypatch, ".tmp-gone-step-00000001")
    _save(root, 1, note="new")
    assert _newest(root) == 1


def test_what_cannot_be_deleted_of_an_unfinished_save_stops_that_step_alone(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root.mkdir()
    _left(root, ".tmp-step-00000002")
    _hold(monkeypatch, ".tmp-step-00000002")
    _save(root, 1)
    with pytest.raises(CheckpointFailed, match="step 2 was not saved: Directory not empty"):
        _save(root, 2)
    _save(root, 3)


def test_what_cannot_be_deleted_keeps_nothing_else(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in range(1, 6):
        _save(root, step, keep=9)
    for name in (".tmp-gone-a", ".tmp-gone-b"):
        _left(root, name)
    _hold(monkeypatch, ".tmp-gone-a", ".tmp-gone-step-00000002")
    with pytest.raises(OSError, match="not empty"):
        checkpoint.tidy(root, 2, root / "step-00000005")
    assert _names(root) == [".tmp-gone-a", ".tmp-gone-step-00000002", "step-00000004", "step-00000005"]


# --- full disks and other refusals ------------------------------------------------------------------------------


def test_a_disk_that_fills_up_while_writing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _save(root, 1)
    real = files.write_file

    def full(path: Path, parts: Any) -> durable.Written:
        if path.name == "optimizer.safetensors":
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, parts)

    monkeypatch.setattr(files, "write_file", full)
    with pytest.raises(CheckpointFailed, match=r"step 2 was not saved: No space.*\n.*free .* GiB|MiB") as caught:
        _save(root, 2)
    assert caught.value.exit_code == 1
    assert _names(root) == ["step-00000001"]
    assert _newest(root) == 1


def test_a_disk_without_room_is_noticed_before_the_first_byte(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _save(root, 1)
    monkeypatch.setattr("galore.trainer.checkpoint.diskspace.free_bytes", lambda directory: 1000)
    monkeypatch.setattr(files, "write_file", lambda *args: pytest.fail("wrote"))
    with pytest.raises(
        CheckpointFailed, match=r"1000 B are free\)\n.*free 1.00 MiB there.*older checkpoints are untouched"
    ):
        _save(root, 2)
    assert _names(root) == ["step-00000001"]
    with pytest.raises(CheckpointFailed, match="then --resume; it begins anew, nothing was saved before"):
        _save(root.with_name("another"), 1)


def test_a_really_full_disk(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root.mkdir()
    mounted = os.geteuid() == 0 and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", root], capture_output=True
    )
    if not mounted or mounted.returncode:
        pytest.skip("needs root and the right to mount a tmpfs")
    try:
        _save(root, 1)
        big = {"model": {"w": torch.zeros(60_000)}}
        with pytest.raises(CheckpointFailed, match="was not saved: No space left"):
            save(root, 2, big, {}, keep=2)  # refused beforehand
        monkeypatch.setattr(checkpoint, "require", lambda *args: None)
        with pytest.raises(CheckpointFailed, match="was not saved: No space left"):
            save(root, 2, big, {}, keep=2)  # fails while writing
        assert _names(root) == ["step-00000001"]
        assert _newest(root) == 1
        _save(root, 3)
    finally:
        subprocess.run(["umount", root], check=True)


def test_a_path_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointFailed, match="writable"):
        _save(tmp_path / "file" / "checkpoints", 1)


def test_a_file_or_a_link_that_leads_nowhere_is_no_folder_of_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "away")
    for name in ("file", "link"):
        with pytest.raises(
            CheckpointFailed, match=rf"{name} is no folder\n.*link leads to.*older checkpoints are untouched"
        ):
            _save(tmp_path / name, 1)


def test_what_cannot_be_stored_writes_nothing(root: Path) -> None:
    with pytest.raises(ValueError, match="cannot name a file"):
        save(root, 1, {"../model": {}}, {}, keep=2)
    with pytest.raises(TypeError, match="not JSON serializable"):
        save(root, 1, {}, {"x": object()}, keep=2)
    with pytest.raises(TypeError, match="'w'"):
        save(root, 1, {"model": {"w": torch.ones(1, device="meta")}}, {}, keep=2)
    assert not root.exists() or _names(root) == []


@pytest.mark.card
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_from_cuda(root: Path) -> None:
    save(root, 1, {"model": {"w": torch.arange(6.0, device="cuda").view(2, 3).T}}, {}, keep=2)
    found, _ = newest_verified(root)
    assert found is not None
    assert torch.equal(found.load("model")["w"], torch.arange(6.0).view(2, 3).T)


def test_of_many_bad_checkpoints_a_few_are_told() -> None:
    bad = [Skipped(Path(f"c/step-{step:08}"), "is odd") for step in range(10_000)]
    assert told(bad[:1]) == ["skipped step-00000000: is odd"]
    assert len(told(bad[:5])) == 5
    assert told(bad)[5:] == ["skipped 9,995 more"]
    assert told([]) == []
