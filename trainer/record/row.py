"""The rows of metrics.jsonl: what each field is, in which unit, and how a person reads it.

A new column is declared here and filled in `recorder`; terminal, report and sinks take it from its `Column`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import UnionType
from typing import Annotated, Any, Literal, NotRequired, TypedDict, get_args, get_origin, get_type_hints

from galore.trainer.common.format import (
    duration,
    exponential,
    learning_rate,
    loss,
    percent,
    perplexity,
    rate,
    size,
    thousands,
)


def losses_of(parts: Mapping[str, Any]) -> dict[str, float]:
    """Losses by name; one that is not finite is read back as None, beside `<name>_is`, which says what it is."""
    named = {name: value for name, value in parts.items() if not isinstance(value, str)}
    return {name: _loss_of(parts.get(f"{name}_is")) if value is None else value for name, value in named.items()}


def _loss_of(word: Any) -> float:
    return float(word) if word in ("inf", "-inf") else math.nan


def by_name(losses: Mapping[str, Any]) -> str:
    """`code 1.2345, books 3.1415`"""
    return ", ".join(f"{name} {loss(value)}" for name, value in losses_of(losses).items())


def by_modality(losses: Mapping[str, Any]) -> str:
    """`text 1.2345 (ppl 3.44), image 3.1415 (ppl 23.1)`"""
    known = losses_of(losses).items()
    return ", ".join(f"{name} {loss(value)} (ppl {perplexity(exponential(value))})" for name, value in known)


@dataclass(frozen=True)
class Column:
    """A field of a row; `columns` gives it its `name`.

    Args:
        unit: of the value; empty for what has none.
        label: before the value on a terminal; empty where the value says itself what it is.
        text: the value in words.
        live: whether a terminal shows it of every step.
        series: whether a history holds it, a number per step.
        title: over it in a report's table of evaluations; empty where that has no such column.
    """

    unit: str = ""
    label: str = ""
    text: Callable[[Any], str] = str
    live: bool = False
    series: bool = False
    title: str = ""
    name: str = ""

    def told(self, row: Mapping[str, Any]) -> str:
        """The value in `row` in words; which one it was where it is not finite, `?` where the row does not say."""
        value = row.get(self.name)
        return self.text(value) if value is not None else str(row.get(f"{self.name}_is", "?"))


class TrainRow(TypedDict, total=False):
    """One optimizer step. Rows of earlier versions lack some."""

    kind: Literal["train"]
    step: Annotated[int, Column("optimizer steps", "step", thousands, series=True)]
    loss_nats: Annotated[float | None, Column("nats per target", "loss", loss, live=True, series=True)]
    squared_error: Annotated[float | None, Column("", "squared error", loss, live=True)]
    perplexity: Annotated[float | None, Column("", "ppl", perplexity, live=True)]
    loss_nats_by_modality: Annotated[dict[str, float], Column("nats per target", "by modality", by_modality, live=True)]
    perplexity_by_modality: Annotated[dict[str, float], Column()]
    extra_loss: Annotated[float, Column("", "extra loss", loss, live=True)]  # without its weight
    router_loss: Annotated[float, Column("", "router loss", loss, live=True)]  # without its coefficient
    learning_rate: Annotated[float, Column("", "lr", learning_rate, live=True, series=True)]
    head_learning_rate: Annotated[float, Column("", "head lr", learning_rate, live=True)]
    embedding_learning_rate: Annotated[float, Column("", "embedding lr", learning_rate, live=True)]
    grad_norm: Annotated[float, Column(series=True)]  # before clipping
    grad_scale: Annotated[float, Column()]  # by clipping
    tokens: Annotated[int, Column("tokens", "tokens", thousands, series=True)]  # since the run began
    targets: Annotated[int, Column("targets")]
    tokens_per_second: Annotated[float, Column("tokens per second", "", rate, live=True, series=True)]
    step_seconds: Annotated[float, Column("s", "time", duration, series=True)]
    mfu_fraction: Annotated[float | None, Column("", "MFU", percent, live=True, series=True)]
    memory_current_bytes: Annotated[int, Column("bytes", "memory", size, series=True)]
    memory_peak_bytes: Annotated[int, Column("bytes", "peak", size, series=True)]  # so far
    memory_by_category_bytes: Annotated[dict[str, int], Column("bytes")]  # of the peak
    energy_joules: Annotated[float, Column("J", series=True)]  # of the card, since the step before
    power_watts: Annotated[float, Column("W", series=True)]
    temperature_celsius: Annotated[int, Column("°C", series=True)]
    sample_ids_crc32: Annotated[int, Column()]
    skipped: Annotated[bool, Column(series=True)]
    refreshed_layers: Annotated[int, Column("layers", series=True)]
    decomposition_fallbacks: Annotated[int, Column("decompositions", series=True)]
    z_loss: Annotated[float, Column("nats per target")]
    refused_parameters: Annotated[int, Column("parameters")]


class EvalRow(TypedDict, total=False):
    """One evaluation: of text its loss, of a task its scores by split and metric."""

    kind: Literal["eval"]
    step: Annotated[int, Column("optimizer steps", "step", thousands, title="step")]
    loss_nats: Annotated[
        float | None, Column("nats per target", "held-out loss", loss, title="held-out loss (nats/token)")
    ]
    squared_error: Annotated[float | None, Column("", "squared error", loss)]
    perplexity: Annotated[float | None, Column("", "ppl", perplexity, title="perplexity")]
    bits_per_byte: Annotated[float, Column("bits per byte of the held-out text", "bits/byte", loss, title="bits/byte")]
    loss_nats_by_source: Annotated[dict[str, float], Column("nats per target", "by source", by_name)]
    loss_nats_by_modality: Annotated[
        dict[str, float], Column("nats per target", "by modality", by_modality, title="loss by modality")
    ]
    perplexity_by_modality: Annotated[dict[str, float], Column()]
    extra_loss: Annotated[float, Column("", "extra loss", loss, title="extra loss")]
    mode: Annotated[str, Column()]
    tokens: Annotated[int, Column("tokens", "", thousands, title="tokens scored")]
    task: Annotated[str, Column()]
    scores: Annotated[dict[str, dict[str, float]], Column()]
    collapsed: Annotated[str | None, Column("", "ALARM:")]
    seconds: Annotated[float, Column("s", "", duration, title="time")]
    sample: Annotated[str | None, Column()]
    question: Annotated[str, Column()]  # to which the sample is the answer


class EventRow(TypedDict):
    """Something that happened once."""

    kind: Literal["event"]
    step: int
    message: str
    profile: NotRequired[dict[str, Any]]  # seconds of profiled steps by part, `trainer.time.account`


Row = TrainRow | EvalRow | EventRow


def loss_of(row: Mapping[str, Any]) -> Any:
    """What a row was minimized or scored by: its `loss_nats`, or of a regression its `squared_error`; else None."""
    return row.get("loss_nats", row.get("squared_error"))


def not_finite(row: Mapping[str, Any]) -> str:
    """What the loss of a row is where it is no finite number, such as `nan`; "" where it is one, or there is none."""
    name = next((name for name in ("loss_nats", "squared_error") if name in row), None)
    if name is None or (isinstance(row[name], float | int) and math.isfinite(row[name])):
        return ""
    return str(row.get(f"{name}_is", row[name]))


def columns(kind: type) -> dict[str, Column]:
    """The columns of a kind of row, by name, in the order in which they are written."""
    hints = get_type_hints(kind, include_extras=True)
    found = {name: part for name, hint in hints.items() for part in get_args(hint)[1:] if isinstance(part, Column)}
    return {name: replace(column, name=name) for name, column in found.items()}


def json_types(kind: type) -> dict[str, tuple[type, ...]]:
    """What reading a row back gives for each field: numbers come as either kind."""
    number: tuple[type, ...] = (int, float)
    return {
        name: tuple(each for part in _parts(hint) for each in (number if part in number else (part,)))
        for name, hint in get_type_hints(kind).items()
    }


def _parts(hint: Any) -> list[type]:
    """`float | None` → float, NoneType; `dict[str, int]` → dict; `Literal["a"]` → str."""
    if get_origin(hint) is Literal:
        return [type(value) for value in get_args(hint)]
    return [get_origin(part) or part for part in (get_args(hint) if isinstance(hint, UnionType) else (hint,))]


TRAIN, EVAL = columns(TrainRow), columns(EvalRow)
