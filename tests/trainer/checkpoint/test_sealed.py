"""A sealed folder is taken as it was written, or not at all."""

import os
import shutil
from pathlib import Path
from typing import IO

import pytest

from galore.trainer.checkpoint import manifest, sealed
from galore.trainer.checkpoint.manifest import Damaged
from galore.trainer.checkpoint.sealed import require_intact, seal
from galore.trainer.common.durable import Written, write_file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    (folder / "below").mkdir(parents=True)
    (folder / "below" / "small").write_bytes(b"few")
    seal(folder, {"large": write_file(folder / "large", [bytes(1000)])})
    return folder


@pytest.mark.parametrize("name", ["large", "below/small", "manifest.json"])
def test_every_byte_counts(folder: Path, name: str) -> None:
    require_intact(folder)
    whole = (folder / name).read_bytes()
    for position in range(0, len(whole), max(len(whole) // 50, 1)):
        (folder / name).write_bytes(whole[:position] + bytes([whole[position] ^ 16]) + whole[position + 1 :])
        with pytest.raises(Damaged):
            require_intact(folder)
    (folder / name).write_bytes(whole)
    require_intact(folder)


def test_a_file_that_is_deleted_while_it_is_compared_is_missing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = manifest.open_regular

    def late(path: Path, *, follow: bool) -> IO[bytes]:
        path.unlink()
        return real(path, follow=follow)

    monkeypatch.setattr(manifest, "open_regular", late)
    with pytest.raises(Damaged, match="is missing"):
        require_intact(folder)


def test_files_that_are_not_in_it_do_not_matter(folder: Path) -> None:
    (folder / "README.md").write_text("mine")
    require_intact(folder)


def test_a_manifest_leads_nowhere_else() -> None:
    for name in ("../x", "a/../../x", "/x", ".hidden", "a//b", ""):
        with pytest.raises(ValueError, match="String should match"):
            manifest.Manifest.of(None, {name: Written(1, "0" * 64)})


def test_a_large_file_is_read_once_and_again_when_it_may_have_changed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealed, "ALWAYS_HASHED", 100)
    hashed: list[str] = []
    real = manifest._check_hash
    monkeypatch.setattr(manifest, "_check_hash", lambda path, entry: hashed.append(path.name) or real(path, entry))

    def read() -> list[str]:
        hashed.clear()
        require_intact(folder)
        return sorted(hashed)

    assert read() == ["large", "small"]
    assert read() == ["small"]
    before = (folder / "large").stat()
    (folder / "large").write_bytes(bytes(999) + b"x")
    os.utime(folder / "large", ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(Damaged, match="large does not match"):
        require_intact(folder)
    (folder / "large").write_bytes(bytes(1000))
    assert read() == ["large", "small"]
    (folder / ".verified").write_text("{")
    assert read() == ["large", "small"]
    shutil.copytree(folder, tmp_path / "copy")  # brings the stamp along, of files that are others
    folder = tmp_path / "copy"
    assert read() == ["large", "small"]


def test_a_stamp_is_that_of_its_manifest(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealed, "ALWAYS_HASHED", 100)
    require_intact(folder)
    files = {"large": Written(1000, "0" * 64)}
    (folder / "manifest.json").write_bytes(manifest.Manifest.of(None, files).to_json())
    with pytest.raises(Damaged, match="large does not match"):
        require_intact(folder)
