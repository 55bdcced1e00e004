from __future__ import annotations

import re
from pathlib import Path

import pytest

from galore.trainer.common.errors import UserError
from galore.trainer.data.formats.compression import COMPRESSIONS
from galore.trainer.data.text.kinds import KINDS, Format
from galore.trainer.data.text.locate import find_files, passed_over
from galore.trainer.recipe import extras


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


def test_a_glob_takes_no_hidden_names_and_ends_where_links_lead_back_up(folder: Path) -> None:
    (folder / ".hidden").mkdir()
    (folder / ".hidden/x.jsonl").write_text("{}")
    (folder / ".y.jsonl").write_text("{}")
    for name in ("one", "two"):
        (folder / "deep" / name).symlink_to(folder, target_is_directory=True)
    assert names(folder, "**/*.jsonl") == [("deep/c.jsonl", "jsonl")]
    assert names(folder, str(folder / "d*" / "*.jsonl")) == [("deep/c.jsonl", "jsonl")]
    assert names(folder, ".*.jsonl") == [(".y.jsonl", "jsonl")]
    (folder / ".hidden/.z.jsonl").write_text("{}")
    assert names(folder, ".h*/*.jsonl") == [(".hidden/x.jsonl", "jsonl")]
    assert names(folder, "deep/../d*/*.jsonl") == [("deep/../deep/c.jsonl", "jsonl")]
    assert names(folder, "de**/*.jsonl") == [("deep/c.jsonl", "jsonl")]
    assert ("c.jsonl", "jsonl") in names(folder / "deep", "**")


def test_a_link_to_nothing_is_called_so(folder: Path) -> None:
    (folder / "lost.txt").symlink_to("gone.txt")
    with pytest.raises(UserError, match=r"lost.txt is a link to gone.txt, which is not there"):
        names(folder, "lost.txt")
    (folder / "else").mkdir()
    (folder / "there").symlink_to("else")
    with pytest.raises(UserError, match=r"the folder .* is empty"):
        names(folder, "there")


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


@pytest.mark.parametrize(("named", "told"), [("allenai/c4", True), ("dir/rows.jsonl", False), ("a/b/c", False)])
def test_what_may_be_a_name_on_the_hub_is_told_how_to_name_it(folder: Path, named: str, told: bool) -> None:
    with pytest.raises(UserError, match="no file matches") as raised:
        find_files(named, folder, "auto", "data.path")
    assert (f"if {named} is a data set of the hub, set source: hub beside it" in raised.value.fix) == told


def test_a_folder_without_data_is_refused(tmp_path: Path) -> None:
    (tmp_path / "README.md").touch()
    with pytest.raises(UserError, match="no txt, jsonl, csv, tsv, parquet or arrow file in the folder"):
        names(tmp_path, ".")


@pytest.mark.parametrize(
    ("held", "what", "fix"),
    [
        ([], r"the folder .* is empty", r"put txt, jsonl, csv, tsv, parquet or arrow files into it"),
        (["sub/x.xlsx"], r"which holds x\.xlsx", r"save the sheet as csv"),
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


def test_a_table_stands_behind_rows_and_before_text(tmp_path: Path) -> None:
    for name in ("train.jsonl", "metadata.csv", "more.tsv.zst", "README.txt"):
        (tmp_path / name).touch()
    assert names(tmp_path, ".") == [("train.jsonl", "jsonl")]
    (tmp_path / "train.jsonl").unlink()
    assert names(tmp_path, ".") == [("metadata.csv", "csv"), ("more.tsv.zst", "tsv")]


@pytest.mark.parametrize("end", ["", *COMPRESSIONS])
@pytest.mark.parametrize("kind", KINDS)
def test_every_format_is_told_by_every_name_it_has(tmp_path: Path, kind: Format, end: str) -> None:
    for suffix in KINDS[kind].suffixes:
        path = tmp_path / f"some{suffix.upper()}{end}"
        path.touch()
        assert names(tmp_path, path.name) == [(path.name, kind)]


@pytest.mark.parametrize("name", ["x.parquet", "x.arrow", "x.txt.zst"])
def test_what_needs_a_package_says_which_before_it_is_read(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "_absent", lambda module: "is not installed")
    (tmp_path / name).touch()
    with pytest.raises(UserError, match=rf"{name} needs the package `pyarrow`") as caught:
        names(tmp_path, name)
    assert "galore-llm[data]" in (caught.value.fix or "")


def test_a_folder_that_datasets_saved_is_its_rows(tmp_path: Path) -> None:
    splits = ["data-00000-of-00001.arrow", "dataset_info.json", "state.json", "cache-1f2e.arrow"]
    for name in ["dataset_dict.json", *(f"train/{each}" for each in splits)]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert names(tmp_path, ".") == [("train/data-00000-of-00001.arrow", "arrow")]


def test_of_a_saved_folder_all_that_it_names_and_nothing_else(tmp_path: Path) -> None:
    """Half of a data set, or files of a save before, would be trained on without a word."""
    for number in range(3):
        (tmp_path / f"data-{number}.arrow").touch()
    (tmp_path / "state.json").write_text(
        '{"_data_files": [{"filename": "data-0.arrow"}, {"filename": "data-2.arrow"}]}'
    )
    assert names(tmp_path, ".") == [("data-0.arrow", "arrow"), ("data-2.arrow", "arrow")]
    (tmp_path / "data-2.arrow").unlink()
    with pytest.raises(UserError, match=r"data-2\.arrow is not there, and state\.json beside it names it"):
        names(tmp_path, ".")


def test_beside_no_arrow_rows_a_file_may_have_any_name(tmp_path: Path) -> None:
    (tmp_path / "state.json").touch()
    assert names(tmp_path, ".") == [("state.json", "jsonl")]
