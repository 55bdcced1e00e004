"""What the plots of a sweep share: the figure, and one colour per method."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from typing import Any

from galore.trainer.common.format import GIB
from galore.trainer.common.style import STYLE

MIB = 2**20


def render(size: tuple[float, float], title: str, paint: Callable[[Any], None]) -> bytes:
    """PNG of a figure of `size` inches, which `paint` fills.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure: Any = Figure(figsize=size, dpi=120, layout="constrained")
        paint(figure)
        figure.suptitle(title, fontweight="bold")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
    return buffer.getvalue()


def colors_of(labels: Iterable[str]) -> dict[str, Any]:
    """A colour for each label."""
    from matplotlib import colormaps

    known = list(dict.fromkeys(labels))
    palette = colormaps["tab10" if len(known) <= 10 else "tab20"].colors  # type: ignore[attr-defined]
    return {label: palette[number % len(palette)] for number, label in enumerate(known)}


def dress(axes: Any, axis: str = "both") -> None:
    """A grid behind what is drawn."""
    axes.grid(axis=axis, alpha=0.25, linewidth=0.7)
    axes.set_axisbelow(True)


def byte_unit(counts: Iterable[int]) -> tuple[int, str]:
    """The unit in which the largest of `counts` is read best."""
    return (GIB, "GiB") if max(counts, default=0) >= GIB else (MIB, "MiB")
