"""What is read of a stream before it is trained on, and what stays of it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("datasets")

from galore.trainer.data.batch import silent
from galore.trainer.data.stream.beforehand import StreamMaterial
from galore.trainer.data.stream.stream import StreamedData
from galore.trainer.recipe.schema.data import DataSection


def test_a_tokenizer_is_trained_on_what_is_not_held_out(hub: Path, documents: list[str], tmp_path: Path) -> None:
    section = DataSection(source="hub", path="dataset")
    found = StreamMaterial.of(section, hub.parent, tmp_path, None, silent)
    assert found.held_out == documents[:30]
    assert sorted(found.identity) == sorted(documents[30:])
    assert list(found.training_texts(silent)) == found.identity


@pytest.mark.parametrize("instruct", [False, True])
def test_nothing_stays_in_the_cache_but_the_tokenizer(
    stream: Callable[..., StreamedData], instruct: bool, tmp_path: Path
) -> None:
    columns = {"prompt_field": "url", "response_field": "text"} if instruct else {}
    assert next(stream(**columns).validation_batches(2, None))
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["held-out.lock", "tokenizers"]


@pytest.mark.parametrize("name", ["unlink", "rmdir"])
def test_what_a_refusing_disk_left_of_the_held_out_text_goes_with_the_next_run(
    stream: Callable[..., StreamedData], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deletion may be refused, on NFS for ever while a file is open: the run goes on, and the next one deletes."""

    honest = getattr(Path, name)

    def refuse(path: Path, **how: bool) -> None:
        if ".held-out-" in str(path):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(path))
        honest(path, **how)

    with monkeypatch.context() as patch:
        patch.setattr(Path, name, refuse)
        assert next(stream().validation_batches(2, None))
    (left,) = (tmp_path / "cache").glob(".held-out-*.tmp")
    (left / ".nfs0123").touch()
    stream()
    assert [path.name for path in left.iterdir()] == [".nfs0123"]
    (left / ".nfs0123").unlink()
    stream()
    assert not left.exists()
