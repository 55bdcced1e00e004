"""docs/architectures.md says of every kind of model what is projected, and is right."""

from __future__ import annotations

from pathlib import Path

from kinds import HEAD, TWENTY, table

PAGE = Path(__file__).parents[2] / "docs/architectures.md"


def test_the_table_is_what_the_groups_are() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert HEAD in text
    assert text[text.index(HEAD) :].partition("\n\n")[0] == table()
    assert len(TWENTY) >= 20
