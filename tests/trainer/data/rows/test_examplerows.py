from __future__ import annotations

from pathlib import Path

import numpy as np

from galore.trainer.data.rows.examplerows import ExampleRows
from galore.trainer.data.tokens.chat import Example
from galore.trainer.data.tokens.examplestore import ExampleStore, ExampleWriter
from galore.trainer.data.tokens.store import token_type

PAD = 9


def store_of(folder: Path, *examples: tuple[list[int], int]) -> ExampleStore:
    """Examples of (ids, length of the prompt)."""
    with ExampleWriter(folder, "train", token_type(100)) as writer:
        for ids, prompt in examples:
            writer.add(Example(ids, np.arange(len(ids)) >= prompt))
        assert writer.num_targets == sum(len(ids) - prompt for ids, prompt in examples)
        assert writer.num_tokens == sum(len(ids) for ids, _ in examples)
    return ExampleStore(folder, "train", token_type(100))


def test_examples_are_put_together_whole(tmp_path: Path) -> None:
    store = store_of(tmp_path, ([1, 2], 1), ([3, 4, 5, 6], 2), ([7, 8, 1], 2), ([5, 5], 1))
    rows = ExampleRows.of(store, 5, PAD, packed=True)
    input_ids, labels = rows.read(np.arange(len(rows)))
    assert input_ids.tolist() == [[1, 2, 7, 8, 1], [3, 4, 5, 6, PAD], [5, 5, PAD, PAD, PAD]]
    assert labels.tolist() == [[-100, 2, -100, -100, 1], [-100, -100, 5, 6, -100], [-100, 5, -100, -100, -100]]
    assert input_ids.dtype == labels.dtype == np.int64
    assert rows.summary["padding_tokens"] == 4
    assert rows.read(np.array([2, 0]))[0].tolist() == [input_ids[2].tolist(), input_ids[0].tolist()]


def test_one_example_a_row(tmp_path: Path) -> None:
    rows = ExampleRows.of(store_of(tmp_path, ([1, 2], 1), ([3, 4, 5], 2)), 4, PAD, packed=False)
    assert rows.read(np.arange(2))[0].tolist() == [[1, 2, PAD, PAD], [3, 4, 5, PAD]]


def test_long_examples_are_cut_and_counted_and_hopeless_ones_dropped(tmp_path: Path) -> None:
    store = store_of(tmp_path, ([1, 2, 3, 4, 5, 6], 2), ([1, 1, 1, 1, 7], 4), ([8, 8], 1))
    rows = ExampleRows.of(store, 4, PAD, packed=True)
    input_ids, labels = rows.read(np.arange(len(rows)))
    assert input_ids.tolist() == [[1, 2, 3, 4], [8, 8, PAD, PAD]]
    assert labels.tolist() == [[-100, -100, 3, 4], [-100, 8, -100, -100]]
    assert rows.summary == {
        "sequences": 2,
        "examples": 2,
        "truncated_examples": 1,
        "dropped_examples": 1,
        "dropped_tokens": 2 + 5,
        "padding_tokens": 2,
    }


def test_a_store_whose_targets_are_cut_short_is_not_intact(tmp_path: Path) -> None:
    store = store_of(tmp_path, ([1, 2, 3], 1))
    assert store.intact
    del store
    path = tmp_path / "train.targets"
    path.write_bytes(path.read_bytes()[:-1])
    assert not ExampleStore(tmp_path, "train", token_type(100)).intact


def test_no_example_is_no_row(tmp_path: Path) -> None:
    assert len(ExampleRows.of(store_of(tmp_path), 4, PAD, packed=True)) == 0


def test_isolated_examples_and_padding_count_their_own_positions(tmp_path: Path) -> None:
    store = store_of(tmp_path, ([1, 2], 1), ([3, 4, 5, 6], 2), ([7, 8, 1], 2), ([5, 5], 1))
    rows = ExampleRows.of(store, 5, PAD, packed=True, isolated=True)
    positions = rows.positions(np.arange(len(rows)))
    assert positions is not None
    assert positions.tolist() == [[0, 1, 0, 1, 2], [0, 1, 2, 3, 0], [0, 1, 0, 1, 2]]
    assert ExampleRows.of(store, 5, PAD, packed=True).positions(np.arange(3)) is None
    long = ExampleRows.of(store, 3, PAD, packed=True, isolated=True).positions(np.arange(4))
    assert long is not None
    assert [0, 1, 2] in long.tolist()  # cut at its end
