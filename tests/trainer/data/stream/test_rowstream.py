"""Rows out of a stream: nothing is lost between them, and from every position the same ones follow."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from galore.trainer.data.batch import IGNORED
from galore.trainer.data.stream.blocks import Blocks
from galore.trainer.data.stream.rowstream import BEGINNING, Position, RowStream
from galore.trainer.data.tokens.tokenizer import Frame

DOCUMENTS = [[1, 2, 3, 4, 5, 6, 7, 8], [], [9], [10, 11], [12, 13, 14]]  # ids, in words
EOS, BOS, PAD, WORDS = 99, 98, 97, 20


def texts(state: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    for number in range(state["row"] if state else 0, len(DOCUMENTS)):
        yield " ".join(f"w{each}" for each in DOCUMENTS[number]), {"row": number + 1}


def stream(
    max_length: int = 4,
    size: int = 2,
    frame: Frame | None = None,
    beginning: tuple[int, ...] = (),
    isolated: bool = False,
) -> RowStream:
    backend = Tokenizer(models.WordLevel({f"w{each}": each for each in range(WORDS)}, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    blocks = Blocks(texts, size, seed=0, shuffle=False)
    return RowStream(blocks, backend, EOS, max_length, frame, beginning, isolated)


def rows(of: RowStream, count: int) -> list[list[int]]:
    return [of.next_row()[0].tolist() for _ in range(count)]


def test_packed_rows_are_the_documents_one_after_another() -> None:
    once = [token for ids in DOCUMENTS if ids for token in (*ids, EOS)]  # one without tokens is not there
    flat = [token for row in rows(stream(), 9) for token in row]
    assert flat == (once * 2)[:36]


def test_labels_of_packed_rows_are_the_rows() -> None:
    ids, labels, _ = stream().next_row()
    assert ids.tolist() == labels.tolist()


def test_documents_begin_as_told() -> None:
    once = [token for ids in DOCUMENTS if ids for token in (BOS, *ids, EOS)]
    assert [token for row in rows(stream(beginning=(BOS,)), 5) for token in row] == once[:20]


def test_rows_of_one_document_are_cut_and_filled() -> None:
    of = stream(frame=Frame((BOS,), (), PAD))
    assert rows(of, 4) == [[BOS, 1, 2, 3], [BOS, 9, PAD, PAD], [BOS, 10, 11, PAD], [BOS, 12, 13, 14]]
    of.seek(BEGINNING)
    assert of.next_row()[1].tolist() == [BOS, 1, 2, 3]
    assert of.next_row()[1].tolist() == [BOS, 9, IGNORED, IGNORED]


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("frame", [None, Frame((), (), PAD)])
def test_the_same_rows_follow_from_every_position(size: int, frame: Frame | None) -> None:
    whole, found = stream(3, size, frame), list[tuple[str, list[int]]]()
    for _ in range(20):
        at = json.dumps(whole.position.to_json())
        found += [(at, rows(whole, 1)[0])]
    other = stream(3, size, frame)
    for number, (at, _) in enumerate(found[:-3]):
        other.seek(Position.from_json(json.loads(at)))
        assert other.position.row == number
        assert rows(other, 3) == [row for _, row in found[number : number + 3]]


def test_nothing_is_read_before_a_row_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    of = stream()
    monkeypatch.setattr(of, "_tokenized", lambda position: iter(()))
    of.seek(BEGINNING)
    assert of.position == BEGINNING
    with pytest.raises(StopIteration):
        of.next_row()


def test_isolated_documents_of_a_stream_count_their_own_positions() -> None:
    """Rows [1 2 3 4] [5 6 7 8] [EOS 9 EOS 10] [11 EOS 12 13] …, wherever they are gone on from."""
    of = stream(isolated=True)
    found = [of.next_row().positions.tolist() for _ in range(2)]
    position = Position.from_json(json.loads(json.dumps(of.position.to_json())))
    found += [of.next_row().positions.tolist() for _ in range(3)]
    assert found[:4] == [[0, 1, 2, 3], [0, 1, 2, 3], [0, 0, 1, 0], [0, 1, 0, 1]]
    again = stream(isolated=True)
    again.seek(position)
    assert [again.next_row().positions.tolist() for _ in range(3)] == found[2:]
    assert stream().next_row().positions is None
