"""The plots of a report: loss, learning rate, throughput and memory against the optimizer step, as PNG."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from galore.trainer.common.format import GIB, percent, rate
from galore.trainer.common.style import BLUE, GREEN, GREY, ORANGE, RED, STYLE
from galore.trainer.memory.categories import COLORS
from galore.trainer.record.history import Column, History
from galore.trainer.record.row import TRAIN, loss_of
from galore.trainer.tasks.metrics import flat

if TYPE_CHECKING:
    from matplotlib.figure import Figure

VISIBLE = 0.01  # of a plot's height; lines nearer to each other are one
LARGEST_EXPONENT = 700  # of e, in a float


def draw(history: History) -> dict[str, bytes]:
    """Name → PNG; a plot of which nothing is known is left out.

    Raises:
        ImportError: matplotlib is not installed.
    """
    plots: dict[str, Callable[[Any, History], bool]] = {
        "loss": _loss,
        "scores": _scores,
        "learning_rate": _learning_rate,
        "throughput": _throughput,
        "memory": _memory,
    }
    return {name: png for name, plot in plots.items() if (png := _render(plot, history))}


def smooth(values: Column, window: int) -> Column:
    """Mean over `window` values around each, fewer at the ends; NaN is passed over."""
    known = np.isfinite(values)
    sums, counts = (np.concatenate([[0.0], np.cumsum(column)]) for column in (np.where(known, values, 0), known))
    index, half = np.arange(len(values)), window // 2
    first, last = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    weight = counts[last] - counts[first]
    return np.where(weight > 0, (sums[last] - sums[first]) / np.maximum(weight, 1), np.nan)


def _render(plot: Callable[[Any, History], bool], history: History) -> bytes | None:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure: Figure = Figure(figsize=(9, 4.8), dpi=130, layout="constrained")
        axes = figure.add_subplot()
        if not plot(axes, history):
            return None
        _dress(axes, history, beside=plot is _memory)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _dress(axes: Any, history: History, beside: bool) -> None:
    """What all plots share; the legend inside, or `beside` a plot that fills its frame."""
    axes.set_xlabel("optimizer step")
    axes.set_xlim(0, max([1, history.last_step, *(row["step"] for row in history.evaluations)]))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.grid(alpha=0.25, linewidth=0.7)
    axes.set_axisbelow(True)
    for index, step in enumerate(history.resumed_steps()):
        axes.axvline(step, color="black", linewidth=1, linestyle=":", zorder=3, label="" if index else "resumed")
    if axes.get_legend_handles_labels()[0] and not beside:
        axes.legend(loc="best")
    elif beside:  # as the areas lie, the highest first
        axes.legend(reverse=True, loc="upper left", bbox_to_anchor=(1.01, 1))


def _loss(axes: Any, history: History) -> bool:
    steps, loss = history.train["step"], history.train["loss_nats"]
    if not np.isfinite(loss).any():
        return False
    many = len(steps) >= 50
    axes.plot(steps, loss, color=BLUE, linewidth=0.8, alpha=0.3 if many else 1, label="training, every step")
    if many:
        axes.plot(steps, smooth(loss, len(steps) // 30), color=BLUE, linewidth=1.8, label="training, smoothed")
    losses = [(row["step"], loss_of(row)) for row in history.evaluations]
    scored = [(step, value) for step, value in losses if value is not None]
    if scored:
        axes.plot(
            *zip(*scored, strict=True),
            color=ORANGE,
            marker="o",
            markersize=5,
            linewidth=1.8,
            label="held-out",
            clip_on=False,
        )
    unigram = history.facts.get("unigram_loss_nats")
    if unigram is not None:
        axes.axhline(unigram, color=RED, linewidth=1.2, linestyle="--", label=f"unigram model, {unigram:.2f}")
    held_out = [value for _, value in scored]
    low = np.nanmin([*loss, *held_out])
    # A marker outside the frame shrinks it to nothing.
    high = max(np.nanpercentile(loss, 99.9), unigram or 0, *held_out)
    axes.set_ylim(low - 0.06 * (high - low + 0.1), high + 0.06 * (high - low + 0.1))
    axes.set(title="Loss", ylabel=f"loss ({history.loss_unit})")
    if history.task is None and axes.get_ylim()[1] < LARGEST_EXPONENT:
        _second_axis(axes, np.exp, _safe_log, "perplexity")
    return True


def _scores(axes: Any, history: History) -> bool:
    """Every metric of a task, and what the majority label reaches."""
    rows = [(row["step"], flat(row["scores"])) for row in history.evaluations if "scores" in row]
    if not rows:
        return False
    majority = flat(history.facts.get("baseline") or {})
    for name, color in zip(rows[-1][1], (BLUE, ORANGE, GREEN, RED), strict=False):
        steps, values = zip(*((step, scores[name]) for step, scores in rows), strict=True)
        axes.plot(steps, values, color=color, marker="o", markersize=5, linewidth=1.8, label=name, clip_on=False)
        if name in majority:
            axes.axhline(majority[name], color=color, linewidth=1.2, linestyle="--", label=f"majority, {name}")
    axes.set(title="Scores on the validation split", ylabel="score")
    return True


def _safe_log(values: Any) -> Any:
    return np.log(np.maximum(values, 1e-12))


def _learning_rate(axes: Any, history: History) -> bool:
    rates = history.train["learning_rate"]
    if not np.isfinite(rates).any():
        return False
    axes.plot(history.train["step"], rates, color=GREEN, linewidth=1.8)
    axes.set_ylim(0, 1.08 * max(np.nanmax(rates), 1e-12))
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=True)
    axes.set(title="Learning rate", ylabel="learning rate of the step")
    return True


def _throughput(axes: Any, history: History) -> bool:
    steps, speed, median = (
        history.train["step"],
        history.train["tokens_per_second"],
        history.median("tokens_per_second"),
    )
    if median is None:
        return False
    axes.plot(steps, speed, color=BLUE, linewidth=0.8, alpha=0.35, label="every step")
    if len(steps) >= 50:
        axes.plot(steps, smooth(speed, len(steps) // 30), color=BLUE, linewidth=1.8, label="smoothed")
    axes.axhline(median, color=GREY, linewidth=1.2, linestyle="--", label=f"median, {rate(median)}")
    axes.set_ylim(0, 1.15 * np.nanpercentile(speed, 99.5))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set(title="Throughput", ylabel=TRAIN["tokens_per_second"].unit)
    mfu = history.median("mfu_fraction")
    if mfu:
        per_token = mfu / median
        second = axes.secondary_yaxis("right", functions=(lambda y: y * per_token, lambda y: y / per_token))
        second.set_ylabel("MFU")
        second.yaxis.set_major_formatter(lambda value, _: percent(value))
    return True


def _memory(axes: Any, history: History) -> bool:
    steps, peak, now = (history.train[key] for key in ("step", "memory_peak_bytes", "memory_current_bytes"))
    if not np.isfinite(peak).any():
        return False
    unit, name = (GIB, "GiB") if np.nanmax(peak) >= GIB else (2**20, "MiB")
    parts = {key: column / unit for key, column in history.memory_parts().items()}
    if parts:
        labels = [key.replace("_", " ") for key in parts]
        colors = [COLORS.get(key, GREY) for key in parts]
        axes.stackplot(steps, *parts.values(), labels=labels, colors=colors, linewidth=0)
    if (peak - now > VISIBLE * np.nanmax(peak)).any():  # else it lies under the other line
        axes.plot(steps, now / unit, color="black", linewidth=1, linestyle="--", label="in use after the step")
    axes.plot(steps, peak / unit, color="black", linewidth=1.6, label="peak so far")
    axes.set_ylim(0, 1.08 * np.nanmax(peak) / unit)
    axes.set(title="Memory", ylabel=f"memory ({name})")
    return True


def _second_axis(axes: Any, forward: Any, inverse: Any, label: str) -> None:
    """An axis on the right, of the values in another unit, with round numbers for ticks."""
    second = axes.secondary_yaxis("right", functions=(forward, inverse))
    second.set_ylabel(label)
    low, high = (float(forward(edge)) for edge in axes.get_ylim())
    digits = (1, 2, 5) if high / low > 6 else (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)
    ticks = [digit * 10.0**power for power in range(12) for digit in digits if low <= digit * 10.0**power <= high]
    if len(ticks) >= 3:
        second.set_yticks(ticks, [f"{tick:,g}" for tick in ticks])
