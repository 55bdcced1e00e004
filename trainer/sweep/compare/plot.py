"""A comparison as a plot: the loss of every run by tokens, by the optimizer's bytes, and by seconds."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from statistics import mean
from typing import Any

from galore.trainer.sweep.compare.standing import Compared, best_of_each, standings
from galore.trainer.sweep.outcome import Outcome
from galore.trainer.sweep.plot import byte_unit, colors_of, dress, render

STYLES = ("-", "--", ":", "-.")  # of the learning rates of a method, the best one first
BOLD, THIN, PALE = 2.4, 1.0, 0.55
ABOVE = 1.03  # room over the highest loss that is drawn whole


def draw(outcomes: Sequence[Outcome], title: str) -> bytes | None:
    """PNG of every run, those of each method's best learning rate bold; None where nothing was trained yet.

    Raises:
        ImportError: matplotlib is not installed.
    """
    found = [each for each in standings(outcomes) if any(run.training or run.held_out for run in each.runs)]
    if not found:
        return None
    return render((14, max(8.4, 1.5 + 0.23 * len(found))), title, partial(_paint, found))


def _paint(found: Sequence[Compared], figure: Any) -> None:
    colors, best, tried = colors_of(each.label for each in found), best_of_each(found), dict[str, int]()
    (training, held_out), (memory, time) = figure.subplots(2, 2)
    unit, name = byte_unit(run.optimizer_bytes for each in found for run in each.runs)
    for each in found:
        rank = tried[each.label] = tried.get(each.label, -1) + 1
        bold = each in best
        line = {
            "color": colors[each.label],
            "linestyle": STYLES[rank % len(STYLES)],
            "linewidth": BOLD if bold else THIN,
            "alpha": 1 if bold else PALE,
        }
        for run in each.runs:
            training.plot(*_columns(run.training), **line)
            held_out.plot(*_columns(run.held_out), marker="o", markersize=4 if bold else 3, **line)
        held_out.plot([], [], label=_legend(each, bold), **line)
        scored = [run for run in each.done if run.held_out]
        _points(memory, each, [run.optimizer_bytes / unit for run in scored], line)
        _points(time, each, [run.seconds / 60 for run in scored], line)
    training.set(title="Training loss by tokens", xlabel="tokens", ylabel="nats per token")
    held_out.set(title="Held-out loss by tokens", xlabel="tokens", ylabel="nats per token")
    memory.set(title="Held-out loss by optimizer memory", xlabel=f"moments and projectors, {name}")
    time.set(title="Held-out loss by time", xlabel="minutes in optimizer steps")
    for axes in (training, held_out, memory, time):
        dress(axes)
        axes.set_xlim(left=0)
    for axes, of in ((training, "training"), (held_out, "held_out")):
        _limit(axes, [loss for each in best or found for run in each.runs for _, loss in getattr(run, of)])
    memory.plot([], [], "o", color="grey", markersize=4, label="one seed")
    memory.plot([], [], "D", color="grey", markersize=7, label="mean of the seeds")
    handles, labels = (first + second for first, second in zip(*map(_handles, (held_out, memory)), strict=True))
    figure.legend(handles, labels, loc="outside right upper", title="method, learning rate")


def _handles(axes: Any) -> tuple[list[Any], list[str]]:
    handles, labels = axes.get_legend_handles_labels()
    return handles, labels


def _legend(each: Compared, bold: bool) -> str:
    note = "" if len(each.done) == len(each.runs) else f", {each.count} done"
    return f"{each.label}, {each.learning_rate:g}{note}" + (" (its best)" if bold else "")


def _columns(curve: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [at for at, _ in curve], [loss for _, loss in curve]


def _points(axes: Any, each: Compared, places: Sequence[float], line: dict[str, Any]) -> None:
    if each.loss is None:
        return
    style = {"color": line["color"], "alpha": line["alpha"]}
    axes.plot(places, each.losses, "o", markersize=4, **style)
    axes.plot([mean(places)], [each.loss], "D", markersize=7, **style)


def _limit(axes: Any, losses: Sequence[float]) -> None:
    """A run that diverged leaves the frame rather than pressing all others flat."""
    if losses:
        low, high = min(losses), max(losses)
        axes.set_ylim(low - (ABOVE - 1) * (high - low + 0.1), high + (ABOVE - 1) * (high - low + 0.1))
