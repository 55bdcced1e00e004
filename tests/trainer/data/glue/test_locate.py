from __future__ import annotations

from pathlib import Path

import pytest

from galore.trainer.common.errors import UserError
from galore.trainer.data.glue.locate import SplitFiles, find_split, task_of_folder
from galore.trainer.tasks.glue import TASKS

SST2, MNLI = TASKS["sst2"], TASKS["mnli"]


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


@pytest.mark.parametrize(
    ("folder", "task"),
    [
        *[("CoLA", "cola"), ("SST-2", "sst2"), ("sst_2", "sst2"), ("SST", "sst2"), ("STS-B", "stsb"), ("sts", "stsb")],
        *[("MultiNLI", "mnli"), ("QNLI", "qnli"), ("qqp", "qqp"), ("Rte", "rte"), ("WNLI", "wnli"), ("MRPC", "mrpc")],
        *[("SNLI", None), ("data", None), ("glue", None)],
    ],
)
def test_spellings_of_folders(folder: str, task: str | None) -> None:
    assert task_of_folder(Path("there") / folder) == task


@pytest.mark.parametrize(
    ("split", "names"),
    [
        ("train", ["train.tsv"]),
        ("train", ["TRAIN.TSV"]),
        ("train", ["train.json.gz"]),
        ("train", ["train.ndjson"]),
        ("train", ["glue-train.parquet"]),
        ("train", ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]),
        ("train", ["train-00000-of-00001-b42f0ce4ab4a3ff2.parquet"]),
        ("train", ["train/0000.parquet", "train/0001.parquet"]),
        ("validation", ["validation.jsonl"]),
        ("validation", ["valid.jsonl"]),
        ("validation", ["val.jsonl"]),
        ("validation", ["dev.tsv.gz"]),
        ("test", ["test.tsv"]),
    ],
)
def test_names_of_files(tmp_path: Path, split: str, names: list[str]) -> None:
    touch(
        tmp_path,
        *names,
        "README.md",
        "test_labeled.jsonl",
        "diagnostic.tsv",
        "training.tsv",
        "train.csv",
        "original/train.tsv",
    )
    found = find_split(SST2, split, tmp_path)
    assert found.paths == tuple(tmp_path / name for name in names)
    assert found.format in ("tsv", "jsonl", "parquet")


def test_matched_and_mismatched(tmp_path: Path) -> None:
    touch(tmp_path, "MNLI/dev_matched.tsv", "MNLI/dev_mismatched.tsv", "MNLI/test_matched.tsv")
    touch(tmp_path, "MNLI/validation-mismatched.txt", "MNLI/diagnostic.tsv")
    for split, name in {"validation_matched": "dev_matched", "validation_mismatched": "dev_mismatched"}.items():
        assert find_split(MNLI, split, tmp_path) == SplitFiles("tsv", (tmp_path / f"MNLI/{name}.tsv",))


def refused(root: Path, split: str = "train") -> UserError:
    with pytest.raises(UserError) as caught:
        find_split(SST2, split, root)
    assert "\n" not in caught.value.what + caught.value.fix
    return caught.value


def test_the_folder_of_another_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "CoLA/train.tsv")
    assert "is the folder of CoLA, not of SST-2" in str(refused(tmp_path / "CoLA"))
    monkeypatch.chdir(tmp_path / "CoLA")
    assert "is the folder of CoLA, not of SST-2" in str(refused(Path()))
    error = refused(tmp_path)
    assert (error.what, error.where) == ("has no folder of SST-2, but of CoLA", str(tmp_path))
    assert error.fix == "put it beside them as SST-2/ or sst2/"


def test_a_split_that_is_not_there(tmp_path: Path) -> None:
    touch(tmp_path, "sst2/train.tsv", "sst2/README.md")
    error = refused(tmp_path, "validation")
    assert error.what == "no file of the split `validation` of SST-2; there is README.md, train.tsv"
    assert error.where == str(tmp_path / "sst2")
    assert "validation.parquet" in error.fix
    assert "dev.tsv" in error.fix
    (tmp_path / "sst2/dev.tsv").symlink_to("/dev/zero")
    odd = refused(tmp_path, "validation")
    assert (odd.where, odd.what) == (str(tmp_path / "sst2/dev.tsv"), "is no regular file")
    (tmp_path / "empty").mkdir()
    assert refused(tmp_path / "empty").what.endswith("there is nothing")


@pytest.mark.parametrize(
    "names",
    [
        ("train.tsv", "train.jsonl"),
        ("train.tsv", "train.tsv.gz"),
        ("sst2/train.tsv", "SST-2/train.tsv"),
        ("train.parquet", "train-00000-of-00001.parquet"),
    ],
)
def test_two_layouts_at_once(tmp_path: Path, names: tuple[str, str]) -> None:
    touch(tmp_path, *names)
    error = refused(tmp_path)
    assert error.what == f"the split `train` of SST-2 is there more than once: {', '.join(sorted(names))}"
    assert error.fix == "keep one of them, or name a folder that holds only one"


def test_a_shard_that_is_missing_or_there_twice(tmp_path: Path) -> None:
    touch(tmp_path, "train-00000-of-00003.parquet", "train-00002-of-00003.parquet")
    assert refused(tmp_path).what == "has 2 of 3 shards; the first that is missing is 00001-of-00003"
    touch(tmp_path, "train-00001-of-00003.parquet", "train-00001-of-00003-abc.parquet")
    assert refused(tmp_path).what.startswith("has a shard twice: ")
