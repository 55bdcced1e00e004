"""The files and folders that the documentation names are there, and so is what it names in them."""

from __future__ import annotations

import re

import pytest
from snippets import ROOT, Snippet, spans

TOPS = ("bench", "cli", "docs", "galore", "kernels", "recipes", "tests", "trainer")
PATH = re.compile(rf"((?:{'|'.join(TOPS)})/[\w./*-]*)(?::{{1,2}} ?(\w+))?(?:, `?\w+`?)*")
NAMED = [each for each in spans() if PATH.fullmatch(each.text)]


@pytest.mark.parametrize("named", NAMED, ids=lambda each: f"{each.file}: {each.text}")
def test_it_is_there(named: Snippet) -> None:
    found = PATH.fullmatch(named.text)
    assert found is not None
    places = [*ROOT.glob(found[1])]
    assert places, f"{named.file} names {found[1]}"
    if found[2]:
        assert any(re.search(rf"^\s*(?:def|class) {found[2]}\b", path.read_text(), re.M) for path in places)


def test_the_changes_name_their_files() -> None:
    """The table of docs/architecture.md: each row says where."""
    text = (ROOT / "docs/architecture.md").read_text()
    rows = text.partition("## Where does my change go?")[2].strip().splitlines()[2:]
    changes = [row for row in rows if row.startswith("| ")]
    assert len(changes) >= 10
    assert all(len(PATH.findall(row)) >= 2 for row in changes)
