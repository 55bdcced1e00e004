"""Recipe, configuration and tokenizer of a run are those its checkpoints were trained with, whole on the disk."""

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig

from galore.trainer.checkpoint import identity
from galore.trainer.common import durable
from galore.trainer.common.errors import UserError


class Part:
    """Writes two files in the way of the libraries: in place, unsynced."""

    def __init__(self, text: str) -> None:
        self.text = text

    def save_pretrained(self, folder: Path) -> None:
        (folder / "config.json").write_text(self.text)
        (folder / "more.json").write_text(self.text[::-1])


def content(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(folder.iterdir())} if folder.is_dir() else {}


def whole(text: str) -> dict[str, str]:
    return {"config.json": text, "more.json": text[::-1]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "model"


def keep(folder: Path, text: str, trained: identity.Files | None = None, tell: Callable[[str], object] = str) -> Any:
    return identity.keep(folder, [Part(text)], trained or {}, tell)


def test_a_folder_that_is_the_same_is_not_touched(folder: Path) -> None:
    files = keep(folder, "one")
    before = folder.stat().st_ino, {path: path.stat() for path in folder.iterdir()}
    assert keep(folder, "one") == files
    assert keep(folder, "the same, of another version", trained=files) == files
    assert (folder.stat().st_ino, {path: path.stat() for path in folder.iterdir()}) == before
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    "harm", [Path.unlink, lambda path: path.write_text("two"), lambda path: path.with_name("z").touch(), _pipe]
)
def test_a_folder_that_is_another_is_told_and_written_anew(folder: Path, harm: Callable[[Path], object]) -> None:
    told: list[str] = []
    files = keep(folder, "one")
    harm(folder / "config.json")
    assert keep(folder, "one", trained=files, tell=told.append) == files
    assert content(folder) == whole("one")
    assert len(told) == 1
    assert "written anew" in told[0]


def _operations(monkeypatch: pytest.MonkeyPatch, fails_at: int) -> Callable[[], bool]:
    """Whether the operation of that number came, which is then refused, as all that follow are."""
    count = iter(range(1_000_000))
    reached = []

    def guarded(real: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*args: Any, **kwargs: Any) -> Any:
            if next(count) >= fails_at:
                reached.append(real)
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return real(*args, **kwargs)

        return operation

    for name in ("fsync", "unlink", "rmdir"):
        monkeypatch.setattr(os, name, guarded(getattr(os, name)))
    for name in ("mkdir", "rename", "write_text", "unlink"):
        monkeypatch.setattr(Path, name, guarded(getattr(Path, name)))
    return lambda: bool(reached)


@pytest.mark.parametrize("before", ["", "one", "two"])
def test_broken_off_anywhere_the_folder_is_the_old_one_or_the_new_one_or_none(
    folder: Path, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    for number in range(100):
        durable.remove(folder)
        if before:
            keep(folder, before)
        with monkeypatch.context() as patch:
            reached = _operations(patch, number)
            with suppress(OSError):
                keep(folder, "one")
            done = not reached()
        assert content(folder) in ({}, whole("one"), whole("two")), number
        assert content(folder) or before != "one"
        if done:
            break
        keep(folder, "one")
        assert content(folder) == whole("one")
        assert [path.name for path in folder.parent.iterdir()] == ["model"]
    assert 5 < number < 99


def test_every_file_is_on_the_disk_before_its_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    real = os.fsync

    def note(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    keep(folder, "one")
    assert synced.index("config.json") < synced.index(".model.tmp") < synced.index(folder.parent.name)
    assert "more.json" in synced


def state(**config: Any) -> dict[str, Any]:
    return {identity.KEY: {"config": identity.values(LlamaConfig(**config))}}


def test_another_function_is_refused_with_both_values(tmp_path: Path) -> None:
    trained = state(rms_norm_eps=1e-6, num_hidden_layers=2)
    identity.require_same_config(
        trained, LlamaConfig(rms_norm_eps=1e-6, num_hidden_layers=2, use_cache=False), tmp_path
    )
    with pytest.raises(UserError, match=r"rms_norm_eps: 1e-06 → 0\.01"):
        identity.require_same_config(trained, LlamaConfig(rms_norm_eps=1e-2, num_hidden_layers=2), tmp_path)
    other = LlamaConfig(rms_norm_eps=1e-6, num_hidden_layers=2, rope_theta=5.0)
    with pytest.raises(UserError, match=r"rope_parameters.rope_theta: 10000.0 → 5.0"):
        identity.require_same_config(trained, other, tmp_path)
    with pytest.raises(UserError, match=r"vocab_size: 32000 → 300[^→]*→ restore the text \(data.path\) or tokenizer"):
        identity.require_same_config(state(), LlamaConfig(vocab_size=300), tmp_path)
    identity.require_same_config({}, LlamaConfig(), tmp_path)  # saved before checkpoints knew
    del trained[identity.KEY]["config"]["rms_norm_eps"]  # unknown to another version of the library
    identity.require_same_config(trained, LlamaConfig(rms_norm_eps=1e-2, num_hidden_layers=2), tmp_path)


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
def test_files_that_cannot_be_read_are_not_damaged(
    folder: Path, unreadable: list[tuple[str, int]], number: int
) -> None:
    files = keep(folder, "one")
    trained = {identity.KEY: {"files": files}}
    identity.require_same_files(trained, folder.parent)
    unreadable.append(("more.json", number))
    with pytest.raises(UserError, match=f"more.json: cannot be read: {os.strerror(number)}") as error:
        identity.require_same_files(trained, folder.parent)
    assert error.value.exit_code == 1
