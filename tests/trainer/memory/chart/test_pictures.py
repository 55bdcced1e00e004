"""Pictures are PNG of the size meant, show what they are given, and say what is missing."""

import sys

import pytest

from galore.trainer.common.errors import UserError
from galore.trainer.memory.categories import CATEGORIES, COLORS, OVERHEAD
from galore.trainer.memory.chart.pictures import bars_png, timeline_png
from galore.trainer.memory.profile import Profile

GIB = 2**30
ROWS = [
    ("AdamW", {"weights": 13 * GIB, "optimizer_states": 26 * GIB, "cuda_context": GIB // 2}, "does not fit"),
    ("GaLore 8-bit $r=1024$", {"weights": 13 * GIB, "optimizer_states": 4 * GIB}, "fits"),
]


def size_of(png):
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    return int.from_bytes(png[16:20]), int.from_bytes(png[20:24])


@pytest.fixture
def drawn(monkeypatch):
    """The figure that was drawn last."""
    figure = pytest.importorskip("matplotlib.figure", reason="needs the plots extra")
    seen, save = [], figure.Figure.savefig
    monkeypatch.setattr(figure.Figure, "savefig", lambda self, *a, **k: (seen.append(self), save(self, *a, **k))[1])
    return seen


def words(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_timeline(profile, drawn):
    assert size_of(timeline_png(profile, r"a run for $\nope$")) == (1560, 806)
    axes, _ = drawn[0].axes
    assert axes.get_title(loc="left") == r"a run for $\nope$"
    assert any(said.startswith("Fits. Its total is") for said in words(drawn[0]))
    assert {"first step", "evaluation", "F", "B"} <= set(words(drawn[0]))
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert {"weights", "activations", "temporaries", "total: reserved and context"} <= set(legend)
    assert f"allocated at the peak, {profile.allocated.high / 2**20:.2f} MiB" in legend
    assert "gradients" not in legend  # there are none


def test_timeline_of_a_run_that_does_not_fit(trace, card, drawn):
    timeline_png(Profile(trace, card(usable=50 * 2**20), False), "a run")
    assert "memory runs out here" in words(drawn[0])


def test_bars(drawn):
    assert size_of(bars_png(ROWS, 24 * GIB, "methods")) == (1560, 598)
    axes = drawn[0].axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == [name for name, _, _ in ROWS]
    said = words(drawn[0])
    assert {"39.50 GiB", "17.00 GiB", "fits", "does not fit", "the card has 24.0 GiB"} <= set(said)
    assert sum(bar.get_width() for bar in axes.patches if bar.get_y() < 0.5) == 39.5
    assert axes.get_xlim()[1] > 39.5


def test_bars_without_a_limit_or_far_below_it(drawn):
    bars_png(ROWS, None, "methods")
    bars_png(ROWS, 1000 * GIB, "methods")
    assert not [said for said in words(drawn[0]) if "card" in said]
    assert "the card has 1000 GiB, far more" in words(drawn[1])
    assert drawn[1].axes[0].get_xlim() == drawn[0].axes[0].get_xlim()


def test_without_matplotlib_it_says_how_to_get_it(profile, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for draw in (lambda: timeline_png(profile, "a run"), lambda: bars_png(ROWS, None, "methods")):
        with pytest.raises(UserError, match=r"pip install 'galore-llm\[plots\]'"):
            draw()


def test_every_category_has_a_colour_of_its_own():
    colors = [COLORS[name] for name in (*CATEGORIES, *OVERHEAD)]
    assert len(set(colors)) == len(colors)
