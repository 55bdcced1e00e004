from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from galore.trainer.common.errors import UserError
from galore.trainer.data.glue.readers import read_split
from galore.trainer.tasks.glue import TASKS

Refused = Callable[[str, Path, str, int | None], None]

WRONG_ROWS = [
    ("cola", b"gj04\t1\t\tFine.\ngj04\t1\tShort.\n", 2, "3 columns where there should be 4"),
    ("cola", b"Fine.\t1\n", 1, "2 columns where there should be 4"),
    ("cola", b"gj04\t2\t\tFine.\n", 1, "the label is '2', which CoLA does not have"),
    ("sst2", b"sentence\tlabel\na\tb\t1\n", 2, "3 columns where there should be 2"),
    ("sst2", b"sentence\tlabel\nfine\tgood\n", 2, "the label is 'good', which SST-2 does not have"),
    ("sst2", b"sentence\tlabel\n \t1\n", 2, "no text"),
    ("sst2", b"sentence\tlabel\nfine\t\n", 2, "no label"),
    ("sst2", b"sentence\tlabel\nfine\t-1\n", 2, "no label"),
    ("sst2", b"sentence\tlabel\n\ncaf\xe9\t1\n", 3, "not valid UTF-8 (byte 0xe9 at 3)"),
    ("sst2", b"sentence\tlabel\nfine\t" + b"1" * (1 << 20), 2, "a line of more than 1,048,576 bytes"),
    ("sst2", b"sentence,label\nfine,1\n", 1, "no column `sentence` among sentence,label"),
    ("sst2", b"index\tsentence\n0\tfine\n", 1, "no column `label` among index, sentence"),
    (
        "rte",
        b"index\tsentence1\tsentence2\tlabel\nx\ta\tb\tentailment\n",
        2,
        "the index is 'x', not the number of a row",
    ),
    (
        "rte",
        b"index\tsentence1\tsentence2\tlabel\n0\ta\tb\tneutral\n",
        2,
        "the label is 'neutral', which RTE does not have",
    ),
    ("rte", b"index\tquestion\tsentence\tlabel\n0\ta\tb\tentailment\n", 1, "no column `sentence1` among"),
    ("mnli", b"sentence1\tsentence2\tgold_label\na\tb\t-\n", 2, "the label is '-', which MNLI does not have"),
    ("mnli", b"index\tsentence1\n0\ta\n", 1, "no column `hypothesis` (or `sentence2`) among index, sentence1"),
    ("mnli", b"premise\thypothesis\na\tb\n", 1, "no column `label` (or `gold_label`) among premise, hypothesis"),
    ("stsb", b"sentence1\tsentence2\tscore\na\tb\t5.1\n", 2, "the score is '5.1', not a number from 0 to 5"),
    ("stsb", b"sentence1\tsentence2\tscore\na\tb\t-0.1\n", 2, "the score is '-0.1', not a number from 0 to 5"),
    ("stsb", b"sentence1\tsentence2\tscore\na\tb\thigh\n", 2, "the score is 'high', not a number from 0 to 5"),
    ("stsb", b"sentence1\tsentence2\tscore\na\tb\tnan\n", 2, "the score is 'nan', not a number from 0 to 5"),
    ("qqp", b"id\tquestion1\tquestion2\tis_duplicate\n1\ta\tb\t0\n2\tc\n", 3, "2 columns where there should be 4"),
]


@pytest.mark.parametrize(("name", "content", "line", "what"), WRONG_ROWS)
def test_wrong_rows_of_tsv(tmp_path: Path, name: str, content: bytes, line: int, what: str, refused: Refused) -> None:
    path = tmp_path / "train.tsv"
    path.write_bytes(content)
    refused(name, path, what, line)


WRONG_OBJECTS = [
    ("sst2", b'{"sentence": "a", "label": 1}\n{"sentence": "a"', 2, "not valid JSON"),
    ("sst2", b'[{"sentence": "a", "label": 1}]\n', 1, "list instead of a JSON object"),
    ("sst2", b'{"sentence": "a", "label": 1}\n\n{"sentence": "a"}\n', 3, "no column `label` among sentence"),
    ("sst2", b'{"text": "a", "label": 1}\n', 1, "no column `sentence` among text, label"),
    ("sst2", b'{"sentence": null, "label": 1}\n', 1, "`sentence` is missing, not a text"),
    ("sst2", b'{"sentence": 3, "label": 1}\n', 1, "`sentence` is 3, not a text"),
    ("sst2", b'{"sentence": "a", "label": true}\n', 1, "the label is True, which SST-2 does not have"),
    ("sst2", b'{"sentence": "a", "label": 0.5}\n', 1, "the label is 0.5, which SST-2 does not have"),
    ("sst2", b'{"sentence": "a", "label": null}\n', 1, "no label"),
    ("sst2", b'{"sentence": "a", "label": [1]}\n', 1, "the label is [1], which SST-2 does not have"),
    ("sst2", b'{"sentence": "a\\ud800", "label": 1}\n', 1, "not valid Unicode (a lone surrogate)"),
    ("sst2", b'{"sentence": "a\xff", "label": 1}\n', 1, "not valid UTF-8 (byte 0xff at 15)"),
    ("rte", b'{"sentence1": "a", "sentence2": null, "label": 1}\n', 1, "`sentence2` is missing, not a text"),
    ("rte", b'{"sentence1": "", "sentence2": " ", "label": 1}\n', 1, "no text"),
    ("rte", b'{"sentence1": "a", "sentence2": "b", "label": 1, "idx": -3}\n', 1, "the index is -3"),
    ("stsb", b'{"sentence1": "a", "sentence2": "b", "label": 7}\n', 1, "the score is 7, not a number from 0 to 5"),
    ("stsb", b'{"sentence1": "a", "sentence2": "b", "label": Infinity}\n', 1, "the score is inf, not a number"),
]


@pytest.mark.parametrize(("name", "content", "line", "what"), WRONG_OBJECTS)
def test_wrong_rows_of_jsonl(tmp_path: Path, name: str, content: bytes, line: int, what: str, refused: Refused) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(content)
    refused(name, path, what, line)


def test_labels_are_read_in_every_spelling(tmp_path: Path) -> None:
    spelled = ["entailment", "not_entailment", 0, 1, "0", "1", 1.0]
    rows = [{"sentence1": "a", "sentence2": "b", "label": label} for label in spelled]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [row.label for row in read_split(TASKS["rte"], "train", tmp_path)] == [0, 1, 0, 1, 0, 1, 1]


def test_the_lines_that_glue_broke_in_qqp_are_passed_over_and_named(tmp_path: Path, refused: Refused) -> None:
    good = "".join(f"{number}\t1\t2\tQuestion {number}?\tAnd {number}?\t0\n" for number in range(2000))
    header = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
    broken = '7000\t1\t2\tWhat is this\n"\tWas it real?\t0\n'
    path = tmp_path / "train.tsv"
    path.write_text(header + broken + good)
    rows = read_split(TASKS["qqp"], "train", tmp_path)
    assert len(rows) == 2000
    assert rows.broken == [f"{path}:2", f"{path}:3"]
    assert rows.where(0) == f"{path}:4"
    path.write_text(header + broken + good + broken)
    refused("qqp", path, "4 columns where there should be 6", 2)


def test_no_line_of_a_test_split_is_passed_over(tmp_path: Path) -> None:
    rows = "".join(f"{number}\tQuestion?\tAnd?\n" for number in range(2000))
    (tmp_path / "test.tsv").write_text("id\tquestion1\tquestion2\n" + rows + "2000\tQuestion?\n")
    with pytest.raises(UserError, match=r"test\.tsv:2002: 2 columns where there should be 3"):
        read_split(TASKS["qqp"], "test", tmp_path)
