"""The text made of installed sources: every file once, and the same bytes each time."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import codetext
import pytest


def test_a_package_is_parted_into_rows_and_held_out_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "made"
    package.mkdir()
    for number in range(41):
        (package / f"of_{number}.py").write_text(f"# {number}\n" * 200)
    (package / "twice.py").write_text("# 0\n" * 200)
    (package / "stub.py").write_text("...")
    (package / "__init__.py").write_text("# all of it\n" * 100)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(codetext, "version", lambda name: "1")
    kept = []
    for out in ("first", "again"):
        monkeypatch.setattr(sys, "argv", ["codetext", str(tmp_path / out), "made"])
        codetext.main()
        kept.append([(tmp_path / out / f"code.{part}.jsonl.gz").read_bytes() for part in ("train", "validation")])
    assert kept[0] == kept[1]
    trained, held = ({json.loads(row)["text"] for row in gzip.decompress(each).splitlines()} for each in kept[0])
    assert (len(trained), len(held)) == (39, 3)
    assert not trained & held
