from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from galore.trainer.data.glue.readarrow import check_label_names, read_hub, read_parquet
from galore.trainer.data.glue.readers import read_split
from galore.trainer.data.glue.rows import Fault
from galore.trainer.tasks.glue import TASKS

Refused = Callable[[str, Path, str, int | None], None]


def write(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path, row_group_size=2)
    return path


@pytest.mark.parametrize("kind", [pa.large_string(), pa.binary(), pa.dictionary(pa.int32(), pa.string())])
def test_types_that_a_text_may_have(tmp_path: Path, kind: pa.DataType) -> None:
    texts = pa.array(["one", "zwei ü", "one"], pa.string()).cast(kind)
    labels = pa.array(["negative", "1", "positive"]).cast(kind)
    write(tmp_path / "train.parquet", sentence=texts, label=labels, other=[0, 1, 2])
    rows = read_split(TASKS["sst2"], "train", tmp_path)
    assert [(row.text_a, row.label, row.index) for row in rows] == [("one", 0, 0), ("zwei ü", 1, 1), ("one", 1, 2)]


def test_faults_are_named_by_file_and_row(tmp_path: Path, refused: Refused) -> None:
    path = tmp_path / "train.parquet"
    good = ["a"] * 4
    write(path, sentence=[*good, "b"], label=[0, 1, 0, 1, 2])
    refused("sst2", path, "the label is 2, which SST-2 does not have", 5)
    write(path, sentence=pa.array([b"a", b"a", b"caf\xe9"], pa.binary()).view(pa.string()), label=[0, 1, 0])
    refused("sst2", path, "not valid UTF-8", 3)
    write(path, sentence=["a", None], label=[0, 1])
    refused("sst2", path, "`sentence` is missing, not a text", 2)
    write(path, sentence=["a", "b"], label=[0, None])
    refused("sst2", path, "no label", 2)
    write(path, sentence=["a"], label=[float("nan")])
    refused("sst2", path, "no label", 1)
    write(path, sentence=[1, 2], label=[0, 1])
    refused("sst2", path, "`sentence` is 1, not a text", 1)
    write(path, text=["a"], label=[0])
    refused("sst2", path, "no column `sentence` among text, label", None)
    write(path, sentence=pa.array([], pa.string()), label=pa.array([], pa.int64()))
    refused("sst2", path, "holds no rows", None)


def test_rows_are_counted_through_row_groups_and_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("galore.trainer.data.glue.readarrow.BATCH_ROWS", 3)
    path = write(tmp_path / "x.parquet", sentence=[str(i) for i in range(8)], label=[0] * 8)
    raws = list(read_parquet(path, TASKS["sst2"], labelled=True))
    assert [(raw.line, raw.text_a) for raw in raws] == [(i + 1, str(i)) for i in range(8)]


def test_label_names_must_be_those_of_the_task() -> None:
    check_label_names(TASKS["rte"], None)
    check_label_names(TASKS["rte"], ["entailment", "not_entailment"])
    with pytest.raises(Fault, match="its label ids mean not_entailment, entailment, those of RTE entailment, not_ent"):
        check_label_names(TASKS["rte"], ["not_entailment", "entailment"])
    with pytest.raises(Fault, match="those of STS-B a score"):
        check_label_names(TASKS["stsb"], ["a", "b"])


def test_classes_of_a_data_set_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {"sentence1": ["a"], "sentence2": ["b"], "label": [0]}
    text = datasets.Value("string")
    wrong = datasets.ClassLabel(names=["not_entailment", "entailment"])
    features = datasets.Features({"sentence1": text, "sentence2": text, "label": wrong})
    data = datasets.Dataset.from_dict(rows, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: data)
    assert [raw.label for raw in read_hub("x/y", TASKS["wnli"], "train", None)] == [0]
    with pytest.raises(Fault, match="label ids mean"):
        list(read_hub("x/y", TASKS["rte"], "train", None))
