"""Memory as PNG: a run over time, and methods side by side as stacked bars."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Any

from galore.trainer.common.format import GIB, size
from galore.trainer.common.style import GREEN, GREY, RED, STYLE
from galore.trainer.memory.categories import CATEGORIES, COLORS, spoken
from galore.trainer.memory.chart.curve import Curve, curve
from galore.trainer.memory.chart.stages import Stage
from galore.trainer.memory.profile import Profile
from galore.trainer.memory.verdict import VERDICTS, out_of_memory, reason, runs_out, unit_of
from galore.trainer.recipe.extras import require

COLUMNS = 900  # of the picture over time, each as high as its highest moment
FAR = 2.5  # times the memory needed: a limit above that is only told
BARS = (*CATEGORIES, "allocator_overhead", "cuda_context")
STAGES = {"forward": "#dcebe2", "backward": "#e6def0", "update": "#fbe6d2"}
OTHER = "#e4e7ec"
OVER = {"ha": "center", "va": "bottom", "color": RED}
PLATE = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5}

Rows = Sequence[tuple[str, dict[str, int], str]]


def timeline_png(profile: Profile, title: str) -> bytes:
    """The memory of a run's steps over time, stacked by category, with the card's limit.

    Raises:
        UserError: matplotlib is not installed.
    """
    found, (unit, _) = curve(profile), unit_of(profile)
    context = profile.card.context_high
    foot = context if context > found.reserved.max() / 2 else 0  # cut off where there is little to see above it

    def draw(figure: Any) -> None:
        axes, strip = figure.subplots(2, height_ratios=(13, 1), sharex=True)
        _areas(axes, profile, found, foot)
        _limits(axes, profile, found, foot, unit)
        _strip(strip, found.stages)
        axes.set_title(title, pad=26)
        axes.text(0, 1.02, f"{VERDICTS[profile.fits]}. {reason(profile)}", transform=axes.transAxes)

    return _render(draw, (12, 6.2))


def bars_png(rows: Rows, limit: int | None, title: str) -> bytes:
    """One stacked bar per method.

    Args:
        rows: name, bytes at the peak by category, and the verdict, such as "fits"; the first is drawn at the top.
        limit: bytes that the card has.
    Raises:
        UserError: matplotlib is not installed.
    """

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        for place, (_, categories, verdict) in enumerate(rows):
            _bar(axes, place, categories, verdict)
        most = max([1, *(sum(categories.values()) for _, categories, _ in rows)])
        if limit is not None:
            most = _card(axes, limit, most)
        axes.set_yticks(range(len(rows)), [textwrap.fill(name, 26) for name, _, _ in rows])
        axes.set(
            ylim=(max(len(rows), 3) - 0.45, -0.55), xlim=(0, 1.36 * most / GIB), xlabel="GiB at the method's own peak"
        )
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", alpha=0.3, linewidth=0.7)
        axes.set_axisbelow(True)
        axes.set_title(title, pad=26)
        _legend(axes, [name for name in BARS if any(categories.get(name) for _, categories, _ in rows)])

    return _render(draw, (12, max(4.6, 1.8 + 0.65 * len(rows))))


def _render(draw: Callable[[Any], None], inches: tuple[float, float]) -> bytes:
    matplotlib, figures = require("matplotlib", "a picture"), require("matplotlib.figure", "a picture")
    with matplotlib.rc_context(STYLE | {"text.parse_math": False}):  # a title may hold a $
        figure = figures.Figure(figsize=inches, dpi=130, layout="constrained")
        draw(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _areas(axes: Any, profile: Profile, found: Curve, foot: int) -> None:
    (unit, unit_name), chosen = unit_of(profile), found.envelope(COLUMNS)
    places, reserved = found.places[chosen], (found.reserved[chosen] - foot) / unit
    parts = {name: part[chosen] / unit for name, part in found.parts.items() if not (foot and name == "cuda_context")}
    peak = found.total[found.peak]
    told = f"allocated at the peak, {profile.allocated.high / unit:.2f} {unit_name}"
    axes.stackplot(places, *parts.values(), colors=[COLORS[name] for name in parts], linewidth=0, step="post")
    (line,) = axes.step(places, reserved, where="post", color=GREY, linewidth=1.3)
    (dot,) = axes.plot(found.places[found.peak], (peak - foot) / unit, "o", color="black", markerfacecolor="white")
    axes.set(xlim=(0, 1), ylim=(0, 1.08 * max(reserved.max(), 1 / unit)))
    axes.set_ylabel(f"memory ({unit_name})" + (f", above the {size(foot)} of the CUDA context" if foot else ""))
    axes.grid(axis="y", alpha=0.3, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(axis="x", bottom=False, labelbottom=False)
    _legend(
        axes, [name for name in reversed(parts) if parts[name].any()], {"total: reserved and context": line, told: dot}
    )


def _limits(axes: Any, profile: Profile, found: Curve, foot: int, unit: int) -> None:
    """The card's limit, and where the run meets it."""
    limit, name = (profile.limit.low - foot) / unit, f"{profile.card.name}: {size(profile.limit.low)}"
    if limit > FAR * axes.get_ylim()[1]:
        axes.annotate(f"↑ {name}, far above", (0.01, 0.96), xycoords="axes fraction", color=RED)
        return
    axes.set_ylim(top=max(axes.get_ylim()[1], 1.08 * limit))
    axes.axhline(limit, color=RED, linestyle="--", linewidth=1.5)
    axes.annotate(name, (0.01, limit), (0, 4), textcoords="offset points", color=RED, bbox=PLATE)
    event = runs_out(profile)
    if event is not None:
        place = found.place(event)
        axes.axvline(place, color=RED, linestyle=":", linewidth=1.8)
        side = {"ha": "right", "xytext": (-7, 9)} if place > 0.5 else {"ha": "left", "xytext": (7, 9)}
        words = out_of_memory(profile)
        axes.annotate(words, (place, 0), textcoords="offset points", color=RED, bbox=PLATE, **side)


def _strip(axes: Any, stages: list[Stage]) -> None:
    """Two rows under the time: stages, and the phases that they make up."""
    for stage in stages:
        kind, _, number = stage.name.partition(" ")
        if stage.name:
            _block(axes, stage.left, stage.right, 0, STAGES.get(kind, OTHER), kind[0].upper() + number)
    for phase, run in groupby(stages, key=lambda stage: stage.phase):
        members = list(run)
        _block(axes, members[0].left, members[-1].right, 1, OTHER, phase)
    axes.set(ylim=(2, 0), xlabel="F forward, B backward, U update; in order of allocations, not to scale")
    axes.set_yticks([])
    axes.tick_params(axis="x", bottom=False, labelbottom=False)
    axes.spines[:].set_visible(False)


def _block(axes: Any, left: float, right: float, row: int, color: str, label: str) -> None:
    axes.barh(row + 0.5, right - left, left=left, height=0.94, color=color, edgecolor="white", linewidth=1)
    axes.text((left + right) / 2, row + 0.5, label, ha="center", va="center", fontsize=9, clip_on=True)


def _bar(axes: Any, place: int, categories: dict[str, int], verdict: str) -> None:
    left = 0.0
    for name in BARS:
        width = categories.get(name, 0) / GIB
        axes.barh(place, width, left=left, height=0.66, color=COLORS[name])
        left += width
    ink = GREEN if verdict == "fits" else RED if verdict == "does not fit" else "black"
    total = axes.annotate(
        f"{left:.2f} GiB", (left, place), (6, 0), textcoords="offset points", va="center", weight="bold"
    )
    words = axes.annotate(verdict, (1, 0.5), (6, 0), xycoords=total, textcoords="offset points", va="center", color=ink)
    for text in (total, words):  # over the line of the limit
        text.set_bbox(PLATE)


def _card(axes: Any, limit: int, most: int) -> int:
    """The card's limit across the bars, unless they are far from it; returns the bytes to be shown."""
    if limit > FAR * most:
        axes.text(1, 1.02, f"the card has {size(limit)}, far more", transform=axes.transAxes, **OVER | {"ha": "right"})
        return most
    axes.axvline(limit / GIB, color=RED, linestyle="--", linewidth=1.5)
    axes.text(limit / GIB, 1.02, f"the card has {size(limit)}", transform=axes.get_xaxis_transform(), **OVER)
    return max(most, limit)


def _legend(axes: Any, names: Iterable[str], more: dict[str, Any] | None = None) -> None:
    from matplotlib.patches import Patch

    handles = {spoken(name): Patch(color=COLORS[name]) for name in names} | (more or {})
    axes.legend(handles.values(), handles.keys(), loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0)
