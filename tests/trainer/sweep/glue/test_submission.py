from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from galore.trainer.common.errors import RunFailed, UserError
from galore.trainer.sweep.glue.submission import incomplete, submission_name, write_submission
from galore.trainer.tasks.glue import TASKS


def test_names() -> None:
    names = [submission_name(task, split) for task in TASKS.values() for split in task.test_splits]
    assert " ".join(names) == (
        "CoLA.tsv SST-2.tsv MRPC.tsv STS-B.tsv QQP.tsv MNLI-m.tsv MNLI-mm.tsv QNLI.tsv RTE.tsv WNLI.tsv"
    )
    with pytest.raises(ValueError, match="`validation` is no test split of RTE"):
        submission_name(TASKS["rte"], "validation")


@pytest.mark.parametrize(
    ("name", "split", "predictions", "content"),
    [
        ("cola", "test", [1, 0], b"index\tprediction\n0\t1\n1\t0\n"),
        ("sst2", "test", [1, 0], b"index\tprediction\n0\t1\n1\t0\n"),
        ("mrpc", "test", [1, 0], b"index\tprediction\n0\t1\n1\t0\n"),
        ("qqp", "test", [1, 0], b"index\tprediction\n0\t1\n1\t0\n"),
        ("wnli", "test", [1, 0], b"index\tprediction\n0\t1\n1\t0\n"),
        ("qnli", "test", [1, 0], b"index\tprediction\n0\tnot_entailment\n1\tentailment\n"),
        ("rte", "test", [1, 0], b"index\tprediction\n0\tnot_entailment\n1\tentailment\n"),
        ("mnli", "test_matched", [0, 1, 2], b"index\tprediction\n0\tentailment\n1\tneutral\n2\tcontradiction\n"),
        ("stsb", "test", [-0.2, 5.3, 3.14159], b"index\tprediction\n0\t0.000\n1\t5.000\n2\t3.142\n"),
    ],
)
@pytest.mark.parametrize("array", [False, True])
def test_to_the_byte(
    tmp_path: Path, name: str, split: str, predictions: list[float], content: bytes, array: bool
) -> None:
    given = np.array(predictions) if array else predictions
    path = write_submission(tmp_path, TASKS[name], split, given, range(len(predictions)))
    assert path == tmp_path / submission_name(TASKS[name], split)
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_rows_are_ordered_by_index(tmp_path: Path) -> None:
    path = write_submission(tmp_path, TASKS["sst2"], "test", [1, 0, 1], [2, 0, 10])
    assert path.read_text() == "index\tprediction\n0\t0\n2\t1\n10\t1\n"


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_submission(tmp_path, TASKS["sst2"], "test", [1], [0])

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_submission(tmp_path, TASKS["sst2"], "test", [0], [0])
    assert path.read_text() == "index\tprediction\n0\t1\n"
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_submitted(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="RTE test: the index 4 is there 2 times"):
        write_submission(tmp_path, TASKS["rte"], "test", [0, 1, 1], [4, 3, 4])
    with pytest.raises(RunFailed, match="1 of 2 predictions are not finite"):
        write_submission(tmp_path, TASKS["stsb"], "test", [float("nan"), 1.0], [0, 1])
    with pytest.raises(ValueError, match=r"shape \(2,\) for indices of \(1,\)"):
        write_submission(tmp_path, TASKS["rte"], "test", [0, 1], [0])
    assert list(tmp_path.iterdir()) == []


def test_an_incomplete_file_is_announced() -> None:
    assert incomplete(TASKS["rte"], "test", 3000) is None
    sentence = "MNLI-mm.tsv has 100 rows; GLUE's server takes it with all 9,847 only"
    assert incomplete(TASKS["mnli"], "test_mismatched", 100) == sentence
