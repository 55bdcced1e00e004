from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from galore.trainer.common.errors import UserError
from galore.trainer.data.glue.readers import read_split
from galore.trainer.data.glue.rows import Example
from galore.trainer.tasks.glue import TASKS

MRPC = TASKS["mrpc"]
HEADER = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n"
Refused = Callable[[str, Path, str, int | None], None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = '1\t10\t11\tHe "said.\tHe spoke.\r\n0\t12\t13\tUp.\tDown.\r\n0\t11\t10\tLeft.\tRight.\r\n'
    (tmp_path / "msr_paraphrase_train.txt").write_text(HEADER + rows, newline="")
    (tmp_path / "msr_paraphrase_test.txt").write_text(HEADER + "1\t20\t21\tOne.\tTwo.\r\n", newline="")
    (tmp_path / "dev_ids.tsv").write_text("12\t13\n10\t12\n")
    return tmp_path


def test_glue_parts_the_training_rows_by_their_ids(folder: Path) -> None:
    train, validation, test = (read_split(MRPC, split, folder) for split in MRPC.sizes)
    assert list(train) == [Example('He "said.', "He spoke.", 1, 0), Example("Left.", "Right.", 0, 1)]
    assert list(validation) == [Example("Up.", "Down.", 0, 0)]
    assert list(test) == [Example("One.", "Two.", 1, 0)]
    assert train.where(1) == f"{folder / 'msr_paraphrase_train.txt'}:4"


def test_glues_own_files_come_first(folder: Path) -> None:
    (folder / "train.tsv").write_text("Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t1\t2\tA.\tB.\n")
    assert [row.text_a for row in read_split(MRPC, "train", folder)] == ["A."]


def test_faults(folder: Path, refused: Refused) -> None:
    path = folder / "msr_paraphrase_train.txt"
    path.write_text(HEADER + "2\t10\t11\tA.\tB.\n")
    refused("mrpc", path, "the label is '2', which MRPC does not have", 2)
    path.write_text(HEADER + "1\t10\t11\tA.\n")
    refused("mrpc", path, "4 columns where there should be 5", 2)
    path.write_text("Quality\t#1 String\t#2 String\n1\tA.\tB.\n")
    refused("mrpc", path, "no column `#1 ID`", 1)
    (folder / "dev_ids.tsv").write_text("12\t13\n10 12\n")
    with pytest.raises(UserError, match=r"dev_ids\.tsv:2: is not two ids"):
        read_split(MRPC, "validation", folder)
    (folder / "dev_ids.tsv").unlink()
    with pytest.raises(UserError, match=r"dev_ids\.tsv: is missing\n.*put GLUE's dev_ids\.tsv there"):
        read_split(MRPC, "train", folder)
