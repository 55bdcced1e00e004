"""The formats of data files, one a line: how a name tells each, what reads it, what it can hold."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from galore.trainer.data.formats.compression import unpacked_name
from galore.trainer.data.text.columns import read_arrow, read_parquet
from galore.trainer.data.text.packaged import read_chapters
from galore.trainer.data.text.readers import Reader, read_csv, read_jsonl, read_tsv, read_txt

Format = Literal["txt", "jsonl", "csv", "tsv", "parquet", "arrow", "verses"]


@dataclass(frozen=True)
class Kind:
    """One format.

    Args:
        suffixes: of the names of such files, before what says that they are compressed.
        rank: in a folder, files of a lower rank stand for it: those beside them are notes and licenses.
        columns: whether rows have columns, as prompts and responses need them; else they are plain text.
        encoded: whether `data.encoding` is about it.
        package: what it needs.
    """

    suffixes: tuple[str, ...]
    read: Reader
    rank: int = 0
    columns: bool = True
    encoded: bool = True
    package: str = ""


KINDS: dict[Format, Kind] = {
    "txt": Kind((".txt", ".text"), read_txt, rank=2, columns=False),
    "jsonl": Kind((".jsonl", ".ndjson", ".json"), read_jsonl),
    "csv": Kind((".csv",), read_csv, rank=1),
    "tsv": Kind((".tsv", ".tab"), read_tsv, rank=1),
    "parquet": Kind((".parquet",), read_parquet, encoded=False, package="pyarrow"),
    "arrow": Kind((".arrow", ".feather"), read_arrow, encoded=False, package="pyarrow"),
    "verses": Kind((), read_chapters, encoded=False, columns=False),
}
FORMAT_OF_SUFFIX = {suffix: name for name, kind in KINDS.items() for suffix in kind.suffixes}
READ = "txt, jsonl, csv, tsv, parquet or arrow"


def format_of(path: Path) -> Format | None:
    """The format that a name tells, whether compressed or not."""
    return FORMAT_OF_SUFFIX.get(Path(unpacked_name(path.name)).suffix.lower())
