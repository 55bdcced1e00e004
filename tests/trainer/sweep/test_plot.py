"""What the plots of a sweep share: a colour for each label, the unit of bytes, and a PNG with a title."""

from __future__ import annotations

from typing import Any

import pytest

from galore.trainer.sweep.plot import byte_unit, colors_of, render

pytest.importorskip("matplotlib")


def test_every_label_has_its_own_colour() -> None:
    for count in (3, 15):
        found = colors_of([*map(str, range(count)), "0"])
        assert len(set(found.values())) == len(found) == count


def test_the_unit_is_that_of_the_largest() -> None:
    assert byte_unit([2**20, 3 * 2**30]) == (2**30, "GiB")
    assert byte_unit([2**20]) == byte_unit([]) == (2**20, "MiB")


def test_a_figure_is_painted_and_titled() -> None:
    seen: list[Any] = []
    png = render((3, 2), "A title", lambda figure: seen.append(figure))
    assert png.startswith(b"\x89PNG")
    assert seen[0].get_suptitle() == "A title"
