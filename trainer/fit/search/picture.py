"""All that a search tried as a picture: seconds of a step against memory, the limit, the front, the chosen one."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import Any

from galore.trainer.common.format import GIB, size
from galore.trainer.common.style import BLUE, GREEN, GREY, ORANGE, RED, STYLE
from galore.trainer.fit.search.fastest import Choice, Fastest
from galore.trainer.recipe.change import spelled
from galore.trainer.recipe.extras import require

LABELS = 6  # of the front: nearer ones would cover each other
INCHES = (11, 6.2)


def front(choices: Iterable[Choice]) -> list[Choice]:
    """Choices that are faster than every one that needs no more memory, the smallest first."""
    found: list[Choice] = []
    for each in sorted(choices, key=lambda choice: (choice.total, choice.pace)):
        if not found or each.pace < found[-1].pace:
            found.append(each)
    return found


def picture(found: Fastest, title: str, kind: str) -> bytes:
    """The file's content, of the `kind` "png" or "svg".

    Raises:
        UserError: matplotlib is not installed.
    """
    matplotlib, figures = require("matplotlib", "a picture"), require("matplotlib.figure", "a picture")
    with matplotlib.rc_context(STYLE | {"text.parse_math": False, "svg.hashsalt": "galore"}):
        figure = figures.Figure(figsize=INCHES, dpi=130, layout="constrained")
        _draw(figure.add_subplot(), found)
        figure.axes[0].set_title(title)
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()


def _draw(axes: Any, found: Fastest) -> None:
    _dots(axes, [each for each in found.tried if not each.fits], GREY, "does not fit")
    _dots(axes, [each for each in found.tried if each.fits], BLUE, "fits")
    best = front([*found.tried, found.best])
    axes.step(*_points(best), where="post", color=ORANGE, linewidth=1.2, label="none is faster with as much memory")
    for each in _spread(best):
        _label(axes, each)
    axes.axvline(found.limit / GIB, color=RED, linestyle="--", linewidth=1.5)
    place = {"xycoords": axes.get_xaxis_transform(), "textcoords": "offset points", "color": RED, "rotation": 90}
    axes.annotate(f"{found.place}: {size(found.limit)}", (found.limit / GIB, 0.98), (4, 0), va="top", **place)
    axes.plot(*_points([found.shipped]), "s", color="black", markersize=8, label="the recipe as it is")
    chosen = f"chosen: {' '.join(spelled(found.best.settings)) or 'the recipe as it is'}"
    axes.plot(*_points([found.best]), "*", color=GREEN, markersize=17, markeredgecolor="white", label=chosen)
    axes.set(xlabel="memory in total (GiB)", ylabel="predicted seconds per step", ylim=(0, None))
    axes.grid(alpha=0.3, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2)


def _points(choices: Sequence[Choice]) -> tuple[list[float], list[float]]:
    return [each.total / GIB for each in choices], [each.pace for each in choices]


def _dots(axes: Any, choices: Sequence[Choice], color: str, label: str) -> None:
    if choices:
        axes.plot(*_points(choices), "o", color=color, markersize=5, alpha=0.75, linestyle="none", label=label)


def _spread(choices: Sequence[Choice]) -> list[Choice]:
    """A few of them, the ends among them."""
    last = len(choices) - 1
    return [choices[at] for at in sorted({round(part * last / (LABELS - 1)) for part in range(LABELS)})]


SHORT = {
    "train.micro_batch_size": "micro-batch",
    "train.gradient_checkpointing": "recomputed",
    "train.offload_activations": "inputs on host",
    "train.stream_weights": "weights on host",
}


def _label(axes: Any, choice: Choice) -> None:
    words = [
        SHORT.get(path, path) + ("" if value is True else f": {'none' if value is False else value}")
        for path, value in choice.settings.items()
        if value is not False or path == "train.gradient_checkpointing"
    ]
    text = "\n".join(words) or "the recipe as it is"
    axes.annotate(text, (choice.total / GIB, choice.pace), (5, 5), textcoords="offset points", fontsize=8)
