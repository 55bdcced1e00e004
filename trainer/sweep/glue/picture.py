"""A fine-tuning on GLUE as a picture: the score of every method per task, and what its optimizer holds."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from galore.trainer.common.style import STYLE
from galore.trainer.sweep.glue.outcome import Standing, last

MIB = 2**20
WIDTH = 0.8  # of the bars of one task


def draw(found: Sequence[Standing], title: str) -> bytes:
    """PNG of those that are done: bars at the median, a dot per seed, a line where the majority label would be.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib import colormaps, rc_context
    from matplotlib.figure import Figure

    done = [each for each in found if each.done]
    labels = list(dict.fromkeys(each.label for each in done))
    tasks = list(dict.fromkeys(each.task.folder for each in done))
    palette = colormaps["tab10"].colors  # type: ignore[attr-defined]
    colors = {label: palette[number % 10] for number, label in enumerate(labels)}
    with rc_context(STYLE):
        figure: Any = Figure(figsize=(5.5 + 1.3 * len(tasks), 4.8), dpi=120, layout="constrained")
        scores, memory = figure.subplots(1, 2, width_ratios=(len(tasks) + 1, 2))
        for each in done:
            at = tasks.index(each.task.folder) + WIDTH * ((labels.index(each.label) + 0.5) / len(labels) - 0.5)
            _bar(scores, each, at, WIDTH / len(labels), colors[each.label])
        scores.set_xticks(range(len(tasks)), [_named(name, done) for name in tasks])
        scores.set(title="Score on the validation split", ylabel="percent")
        held = [
            max(run.optimizer_bytes for each in done if each.label == label for run in each.done) for label in labels
        ]
        memory.barh(labels, [count / MIB for count in held], color=[colors[label] for label in labels])
        memory.invert_yaxis()
        memory.set(title="Optimizer memory", xlabel="moments and projectors, MiB")
        for axes, axis in ((scores, "y"), (memory, "x")):
            axes.grid(axis=axis, alpha=0.25, linewidth=0.7)
            axes.set_axisbelow(True)
        figure.suptitle(title, fontweight="bold")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _bar(axes: Any, each: Standing, at: float, width: float, color: Any) -> None:
    axes.bar([at], [100 * each.score], width * 0.92, color=color, alpha=0.85)
    seeds = [100 * last(run)[each.task.headline] for run in each.done]
    axes.plot([at] * len(seeds), seeds, ".", color="black", markersize=4)
    majority = each.done[0].baseline.get(each.task.headline)
    if majority is not None:
        axes.hlines(100 * majority, at - width / 2, at + width / 2, color="black", linewidth=1, linestyle=":")


def _named(folder: str, done: Sequence[Standing]) -> str:
    metric = next(each.task.headline for each in done if each.task.folder == folder)
    return f"{folder}\n{metric.removesuffix('_correlation')}"
