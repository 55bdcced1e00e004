from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path

import pytest

from galore.trainer.common.durable import Written
from galore.trainer.common.errors import RunFailed
from galore.trainer.data.tokens.store import StoreWriter, TokenStore, token_type


def write(folder: Path, documents: list[list[int]], vocab: int = 100) -> TokenStore:
    with StoreWriter(folder, "train", token_type(vocab), eos_token_id=7) as writer:
        for ids in documents:
            writer.extend(ids[:2])
            writer.extend(ids[2:])
            writer.end_document()
    return TokenStore(folder, "train", token_type(vocab))


def test_documents_are_slices_that_end_with_eos(tmp_path: Path) -> None:
    store = write(tmp_path, [[1, 2, 3], [], [4]])
    assert store.tokens[:].tolist() == [1, 2, 3, 7, 4, 7]
    assert store.tokens[2:4].tolist() == [3, 7]
    assert store.offsets[:].tolist() == [0, 4, 6]
    assert store.num_documents == 2
    assert store.span(1) == (4, 6)


def test_what_was_written_is_known_without_reading_it(tmp_path: Path) -> None:
    with StoreWriter(tmp_path, "train", token_type(100), eos_token_id=7) as writer:
        writer.extend([1, 2])
        writer.end_document()
    files = {name: (tmp_path / name).read_bytes() for name in ("train.tokens", "train.offsets")}
    assert writer.written == {name: Written(len(raw), sha256(raw).hexdigest()) for name, raw in files.items()}


def test_a_file_that_shrinks_while_it_is_in_use_is_an_error_and_no_signal(tmp_path: Path) -> None:
    store = write(tmp_path, [list(range(50)), [4]])
    os.truncate(tmp_path / "train.tokens", 40)
    assert store.tokens[:20].tolist() == list(range(20))
    with pytest.raises(RunFailed, match=r"train.tokens: cannot be read any more: it has become shorter\n.*--resume"):
        store.tokens[10:30]
    store.tokens._descriptor = -1
    with pytest.raises(RunFailed, match="cannot be read any more: Bad file descriptor"):
        store.tokens[:1]


def test_a_store_that_was_deleted_stays_readable(tmp_path: Path) -> None:
    store = write(tmp_path, [[1, 2]])
    (tmp_path / "train.tokens").unlink()
    assert store.tokens[:].tolist() == [1, 2, 7]


@pytest.mark.parametrize(("vocab", "size"), [(65_535, 2), (65_536, 2), (65_537, 4), (250_000, 4)])
def test_the_type_holds_every_id(tmp_path: Path, vocab: int, size: int) -> None:
    assert token_type(vocab).itemsize == size
    assert write(tmp_path, [[vocab - 1]], vocab).tokens[:1] == vocab - 1


def test_an_id_that_does_not_fit_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OverflowError):
        write(tmp_path, [[65_536]])


def test_a_truncated_file_is_noticed(tmp_path: Path) -> None:
    assert write(tmp_path, [[1, 2, 3]]).intact
    path = tmp_path / "train.tokens"
    path.write_bytes(path.read_bytes()[:-2])
    assert not TokenStore(tmp_path, "train", token_type(100)).intact


def test_an_empty_store(tmp_path: Path) -> None:
    store = write(tmp_path, [])
    assert store.intact
    assert store.num_documents == len(store.tokens) == 0
