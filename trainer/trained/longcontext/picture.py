"""A search for rotary factors as a picture: the factors it found, and how the perplexity fell."""

from __future__ import annotations

import io
from typing import Any

from galore.trainer.common.format import exponential
from galore.trainer.common.style import BLUE, GREEN, GREY, ORANGE, STYLE
from galore.trainer.trained.longcontext.ropesearch import Found

COLORS = {"none": GREY, "linear": ORANGE, "dynamic": GREEN, "yarn": "black", "as it is": ORANGE}


def draw(found: Found, title: str) -> bytes:
    """PNG of what was found.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure: Any = Figure(figsize=(12, 4.8), dpi=120, layout="constrained")
        factors, course = figure.subplots(1, 2)
        factors.plot(found.candidate.factors, color=BLUE, marker="o", markersize=3, label="searched")
        for name, values in found.usual_factors.items():
            factors.plot(values, color=COLORS[name], linewidth=1, label=name)
        factors.set(title="Factors by pair of dimensions", xlabel="fast to slow", ylabel="slowed by")
        course.plot([exponential(loss) for loss in found.course], color=BLUE, label="lowest so far")
        for name, loss in found.known.items():
            course.axhline(exponential(loss), color=COLORS[name], linewidth=1, linestyle="--", label=name)
        course.set(title="Perplexity of the rows", xlabel="candidates scored", yscale="log")
        for axes in (factors, course):
            axes.grid(alpha=0.25)
            axes.legend()
        figure.suptitle(title, fontweight="bold")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
    return buffer.getvalue()
