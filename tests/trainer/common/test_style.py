"""The look of pictures: colours that are told apart, and settings that matplotlib knows."""

from __future__ import annotations

import itertools

import pytest

from galore.trainer.common.style import BLUE, GREEN, GREY, ORANGE, RED, STYLE

matplotlib = pytest.importorskip("matplotlib")
COLOURS = (BLUE, ORANGE, GREEN, GREY, RED)


@pytest.mark.parametrize(("one", "other"), itertools.combinations(COLOURS, 2))
def test_colours_are_told_apart(one: str, other: str) -> None:
    from matplotlib.colors import to_rgb

    assert sum(abs(a - b) for a, b in zip(to_rgb(one), to_rgb(other), strict=True)) > 0.3


@pytest.mark.parametrize("colour", COLOURS)
def test_colours_stand_out_from_white(colour: str) -> None:
    """Contrast of 3:1 at least, as WCAG 2 asks of graphics."""
    from matplotlib.colors import to_rgb

    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in to_rgb(colour)]
    luminance = sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    assert 1.05 / (luminance + 0.05) >= 3


def test_matplotlib_knows_every_setting() -> None:
    with matplotlib.rc_context(STYLE):
        assert {name: matplotlib.rcParams[name] for name in STYLE} == STYLE
