from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from galore.trainer.common.errors import UserError
from galore.trainer.data.text.locate import find_files, passed_over
from galore.trainer.data.text.quality import BadRows
from galore.trainer.data.text.sources import training_corpus
from galore.trainer.recipe.schema.data import DataSection


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    names = ["b.txt", "a.txt.gz", "deep/c.jsonl", "deep/c4-train.00000-of-01024.json.gz", "d.parquet", "README.md"]
    for name in [*names, ".hidden.txt", ".git/x.txt", "odd[1].txt"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def names(folder: Path, paths: str | list[str], format: str = "auto") -> list[tuple[str, str]]:
    found = find_files(paths, folder, format, "data.path")
    return [(str(file.path.relative_to(folder)), file.format) for file in found]


def test_a_folder_is_searched_and_sorted(folder: Path) -> None:
    assert names(folder, ".") == [
        ("d.parquet", "parquet"),
        ("deep/c.jsonl", "jsonl"),
        ("deep/c4-train.00000-of-01024.json.gz", "jsonl"),
    ]


def test_format_selects_within_a_folder_and_decides_for_a_file(folder: Path) -> None:
    assert names(folder, ".", "parquet") == [("d.parquet", "parquet")]
    assert names(folder, "README.md", "txt") == [("README.md", "txt")]


def test_a_text_beside_rows_is_read_when_it_is_named_and_told_when_it_is_not(folder: Path) -> None:
    """LICENSE.txt beside train.jsonl."""
    assert ("b.txt", "txt") in names(folder, [".", "b.txt"])
    assert names(folder, ".", "txt") == [("a.txt.gz", "txt"), ("b.txt", "txt"), ("odd[1].txt", "txt")]
    found = find_files(".", folder, "auto", "data.path")
    assert passed_over(".", folder, found) == ["README.md", "a.txt.gz", "b.txt", "odd[1].txt"]
    assert passed_over([".", "b.txt"], folder, find_files([".", "b.txt"], folder, "auto", "data.path"))[1:] == [
        "a.txt.gz",
        "odd[1].txt",
    ]
    assert passed_over("*.txt", folder, found) == []
    for path in [*folder.rglob("*.jsonl"), *folder.rglob("*.gz"), *folder.rglob("*.parquet")]:
        path.unlink()
    assert names(folder, ".") == [("b.txt", "txt"), ("odd[1].txt", "txt")]


def test_globs_lists_and_repetitions(folder: Path) -> None:
    assert names(folder, "*.txt*") == [("a.txt.gz", "txt"), ("b.txt", "txt"), ("odd[1].txt", "txt")]
    assert names(folder, "**/*.jsonl") == [("deep/c.jsonl", "jsonl")]
    assert names(folder, ["d.parquet", "b.txt", "*.txt"])[:2] == [("d.parquet", "parquet"), ("b.txt", "txt")]
    assert len(names(folder, ["b.txt", "b.txt", str(folder / "b.txt")])) == 1


def test_a_file_whose_name_looks_like_a_glob(folder: Path) -> None:
    assert names(folder, "odd[1].txt") == [("odd[1].txt", "txt")]


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ("absent.txt", "no file matches"),
        ("*.csv", "no file matches"),
        (["b.txt", "absent.txt"], "no file matches .*absent"),
        ("README.md", "cannot tell the format"),
        ([], "empty list"),
    ],
)
def test_what_is_not_there_is_refused(folder: Path, paths: str | list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        names(folder, paths)


def test_a_folder_without_data_is_refused(tmp_path: Path) -> None:
    (tmp_path / "README.md").touch()
    with pytest.raises(UserError, match="no txt, jsonl or parquet file in the folder"):
        names(tmp_path, ".")


@pytest.mark.parametrize(
    ("held", "what", "fix"),
    [
        ([], r"the folder .* is empty", r"put txt, jsonl or parquet files into it"),
        (["sub/x.csv"], r"which holds x\.csv", r"csv\.DictReader"),
        (["x.pdf", "note.md"], r"which holds note\.md, x\.pdf", r"set data\.format: txt"),
        (["x.bin"], r"which holds x\.bin", r"name the folder that has them"),
    ],
)
def test_a_folder_without_data_says_what_it_holds_and_what_to_do(
    tmp_path: Path, held: list[str], what: str, fix: str
) -> None:
    for name in held:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=what) as caught:
        names(tmp_path, ".")
    assert re.search(fix, caught.value.fix or "")


@pytest.mark.parametrize(("name", "apart"), [("My file.csv", ","), ("x.tsv", "\t")])
def test_what_is_said_of_csv_makes_rows_of_it(tmp_path: Path, name: str, apart: str) -> None:
    (tmp_path / name).write_text(f"id{apart}body\n1{apart}café\n2{apart}{'a' * 200_000}\n")
    with pytest.raises(UserError, match="cannot tell the format") as caught:
        names(tmp_path, name)
    fix = caught.value.fix or ""
    command = fix.partition("make jsonl of it: ")[2].partition("; data.text_field")[0]
    command = command.replace(f"< NAME{Path(name).suffix}", f"< '{name}'").replace("python", sys.executable)
    subprocess.run(command, shell=True, cwd=tmp_path, check=True)
    section = DataSection(path="NAME.jsonl", text_field="body")
    texts = [document.text for document in training_corpus(section, tmp_path).documents(BadRows("error"))]
    assert texts == ["café", "a" * 200_000]


def test_a_folder_that_datasets_saved_is_its_rows(tmp_path: Path) -> None:
    splits = ["data-00000-of-00001.arrow", "dataset_info.json", "state.json", "cache-1f2e.arrow"]
    for name in ["dataset_dict.json", *(f"train/{each}" for each in splits)]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert names(tmp_path, ".") == [("train/data-00000-of-00001.arrow", "arrow")]


def test_beside_no_arrow_rows_a_file_may_have_any_name(tmp_path: Path) -> None:
    (tmp_path / "state.json").touch()
    assert names(tmp_path, ".") == [("state.json", "jsonl")]
