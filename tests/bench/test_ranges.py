"""The ends of the versions that are accepted, as pip is told of them."""

from __future__ import annotations

import re

import pytest
import ranges


def pinned() -> dict[str, tuple[int, ...]]:
    """What set-up installs, (major, minor, …) by name."""
    lines = (ranges.ROOT / "constraints.txt").read_text().splitlines()
    found = (line.partition("==") for line in lines if "==" in line and not line.startswith("#"))
    return {name.lower().replace("_", "-"): numbers(version) for name, _, version in found}


def numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.match(r"[\d.]*\d", version)[0].split(".")))


def test_every_range_has_a_beginning_and_what_set_up_installs_lies_in_it() -> None:
    installed = pinned()
    for each in ranges.accepted():
        name = each["name"].lower()
        assert each["version"] or name.startswith("types-"), name
        if each["version"]:
            assert installed[name] >= numbers(each["version"]), name


def test_ends() -> None:
    marked, plain, exact = map(ranges.REQUIREMENT.fullmatch, ("a-b>=1.2;x == 'y'", "c>=3", "d==4.5"))
    assert [ranges.oldest(each) for each in (marked, plain, exact)] == ["a-b==1.2;x == 'y'", "c==3", "d==4.5"]
    assert [ranges.newest(each) for each in (marked, plain, exact)] == ["a-b;x == 'y'", "c", "d==4.5"]


def test_another_form_is_refused(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ranges.ROOT / "pyproject.toml").read_text()
    (tmp_path / "pyproject.toml").write_text(text.replace('"numpy>=', '"numpy~=', 1))
    monkeypatch.setattr(ranges, "ROOT", tmp_path)
    with pytest.raises(SystemExit, match=r"numpy~=\S+ has no version that a range begins with"):
        list(ranges.accepted())
