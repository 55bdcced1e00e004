"""The Python sources of installed packages as a text to train on: a second one, beside novels, that no rate was tuned on.

    python bench/codetext.py OUT [PACKAGE …]      OUT/code.train.jsonl.gz and OUT/code.validation.jsonl.gz

A row is one file of `torch` and `transformers`, or of the packages named. Files of one content count once, their order
is that of their SHA-256, and every twentieth is held out: the same versions of the packages give the same bytes.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import sys
from collections.abc import Iterable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("torch", "transformers")
HELD_OUT = 20  # every so many rows, one
SMALLEST, LARGEST = 500, 200_000  # characters of a file: no stubs, and no tables of numbers


def sources(package: str) -> Iterable[str]:
    """The text of each Python file of an installed package."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        sys.exit(f"{package}: not installed")
    for file in Path(spec.origin).parent.rglob("*.py"):
        text = file.read_text(encoding="utf-8", errors="replace")
        if SMALLEST <= len(text) <= LARGEST:
            yield text


def rows(packages: Iterable[str]) -> list[str]:
    """Every source once, in the order of its digest."""
    found = {hashlib.sha256(text.encode()).digest(): text for package in packages for text in sources(package)}
    return [found[digest] for digest in sorted(found)]


def write(file: Path, texts: list[str]) -> None:
    with gzip.GzipFile(file, "wb", mtime=0) as packed:
        packed.writelines((json.dumps({"text": text}) + "\n").encode() for text in texts)
    print(f"{file}: {len(texts):,} rows, {sum(map(len, texts)):,} characters")


def main() -> None:
    out, *packages = sys.argv[1:]
    packages, folder = packages or [*PACKAGES], Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    found = rows(packages)
    write(folder / "code.validation.jsonl.gz", found[::HELD_OUT])
    write(folder / "code.train.jsonl.gz", [text for at, text in enumerate(found) if at % HELD_OUT])
    print(", ".join(f"{package} {version(package)}" for package in packages))


if __name__ == "__main__":
    main()
