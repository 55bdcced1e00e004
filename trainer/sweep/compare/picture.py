"""A comparison as one picture: loss against tokens, against the optimizer's bytes, and against seconds."""

from __future__ import annotations

import io
from collections.abc import Sequence
from statistics import mean
from typing import Any

from galore.trainer.common.format import GIB
from galore.trainer.common.style import STYLE
from galore.trainer.sweep.compare.outcome import Standing

MIB = 2**20


def draw(best: Sequence[Standing], title: str) -> bytes:
    """PNG of each method at its best learning rate.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib import colormaps, rc_context
    from matplotlib.figure import Figure

    colors = colormaps["tab10" if len(best) <= 10 else "tab20"].colors  # type: ignore[attr-defined]
    with rc_context(STYLE):
        figure: Any = Figure(figsize=(13, 4.6), dpi=120, layout="constrained")
        curve, memory, time = figure.subplots(1, 3)
        for index, each in enumerate(best):
            color = colors[index % len(colors)]
            _curves(curve, each, color)
            _point(memory, each, mean(run.optimizer_bytes for run in each.runs) / _unit(best)[0], color)
            _point(time, each, mean(run.seconds for run in each.runs) / 60, color)
        curve.set(title="Held-out loss by tokens", xlabel="tokens", ylabel="nats per token")
        memory.set(title="by optimizer memory", xlabel=f"moments and projectors, {_unit(best)[1]}")
        time.set(title="by time", xlabel="minutes in optimizer steps")
        for axes in (curve, memory, time):
            axes.grid(alpha=0.25, linewidth=0.7)
        for axes in (memory, time):
            axes.set_xlim(left=0)
        figure.suptitle(title, fontweight="bold")
        figure.legend(*curve.get_legend_handles_labels(), loc="outside right upper")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _curves(axes: Any, each: Standing, color: Any) -> None:
    for index, run in enumerate(run for run in each.runs if run.curve):
        label = each.method if index == 0 else None
        axes.plot(*zip(*run.curve, strict=True), color=color, marker="o", markersize=3, linewidth=1.4, label=label)


def _point(axes: Any, each: Standing, at: float, color: Any) -> None:
    axes.plot([at] * len(each.losses), each.losses, "o", color=color, markersize=4, alpha=0.5)
    axes.plot([at], [each.loss], "D", color=color, markersize=7)


def _unit(best: Sequence[Standing]) -> tuple[int, str]:
    most = max(run.optimizer_bytes for each in best for run in each.runs)
    return (GIB, "GiB") if most >= GIB else (MIB, "MiB")
