"""Weights that wait in host memory: memory, bytes over the bus and seconds of a step, predicted and measured, 7B to 32B.

Every recipe has a process of its own, which may take no more than an RTX 4090 has. Weights are drawn cheaply: what they
are changes neither time nor bytes.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from gpu.cheap import draw_cheaply
from gpu.records import Records
from gpu.scale import GIB, Scale

MODULE = "gpu.proofs.streaming"
GOAL = 0.01  # of measured bytes
MICRO_BATCHES = 4  # of a step: as many as a measurement carries out
TIMED = 2
BLOCKS = 3  # of a rehearsal: more than lie on the device at a time
STREAMED, OFFLOADED = {"train__stream_weights": "true"}, {"train__offload_activations": "true"}
RESIDENT_7B, STREAMED_7B = "7B, resident", "7B"


@dataclass(frozen=True)
class Row:
    """A recipe with settings of its own, in micro-batches of `rows` sequences."""

    name: str
    recipe: str
    rows: int
    settings: dict[str, str]


ROWS = (
    Row(RESIDENT_7B, "llama-7b-12gb", 2, {}),
    Row(STREAMED_7B, "llama-7b-12gb", 2, STREAMED),
    Row("13B", "llama-13b-24gb", 2, STREAMED | OFFLOADED | {"optim__weight_dtype": "int8"}),
    Row("32B", "llama-32b-24gb", 2, {}),
)
TINY = (Row(RESIDENT_7B, "llama-60m-galore", 1, {}), Row(STREAMED_7B, "llama-60m-galore", 1, STREAMED))


def prove(scale: Scale, records: Records) -> None:
    card = None if scale.rehearsal else scale.asked("gpu.proofs.memory", "here", {})
    if card and "failed" in card:
        raise RuntimeError(f"the card cannot be asked: {card['failed']}")
    rows, rates = TINY if scale.rehearsal else ROWS[:2] if scale.smoke else ROWS, {}
    with ThreadPoolExecutor(len(rows)) as pool:
        predicted = {row.name: pool.submit(_ask, "predict", row, card, scale) for row in rows}
        for row in rows:
            rates[row.name] = _compare(row, predicted[row.name], _ask("measure", row, card, scale), records)
    resident, streamed = rates[RESIDENT_7B], rates[STREAMED_7B]
    if resident and streamed:
        records.note("7B, streamed / resident: tokens per second", ratio=streamed / resident)


def _ask(verb: str, row: Row, card: dict[str, Any] | None, scale: Scale) -> dict[str, Any]:
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if verb == "predict" else {}
    order = {"recipe": row.recipe, "rows": row.rows, "settings": row.settings, "card": card}
    found: dict[str, Any] = scale.asked(MODULE, verb, order, **hidden)
    return found


def _compare(row: Row, awaited: Future[dict[str, Any]], measured: dict[str, Any], records: Records) -> float | None:
    """Note one row; returns its measured tokens per second."""
    predicted = awaited.result()
    for side, found, other in (("prediction", predicted, measured), ("measurement", measured, predicted)):
        if "failed" in found:
            kept = {f"{name}_gib": other[name] / GIB for name in ("card", "host") if other.get(name)}
            records.note(f"{row.name}: {side} failed: {found['failed']}", ok=False, **kept)
            return None
    bytes_of = ("card", "host", "there", "back")
    errors = {f"{name}_error": predicted[name] / measured[name] - 1 for name in bytes_of if measured[name]}
    gib = {f"{name}_gib": measured[name] / GIB for name in bytes_of}
    records.note(
        f"{row.name}: memory and bus", ok=all(abs(error) <= GOAL for error in errors.values()), **errors, **gib
    )
    seconds, expected = measured["seconds"], predicted["seconds"]
    rate: float = measured["tokens"] / seconds
    beside = {} if expected is None else {"predicted_from": expected[0], "predicted_to": expected[1]}
    records.note(f"{row.name}: seconds per step", seconds=seconds, **beside, tokens_per_second=rate)
    return rate


def _loaded(order: dict[str, Any]) -> Any:
    from galore.trainer.recipe.load import load_recipe

    rows = order["rows"]
    batch = {"train__micro_batch_size": rows, "train__global_batch_size": MICRO_BATCHES * rows}
    scale = Scale(order["rehearsal"], Path(order["folder"]))
    deep = [f"model.num_hidden_layers={BLOCKS}"] if scale.rehearsal else []
    return load_recipe(order["recipe"], [*scale.settings(**batch, **order["settings"]), *deep])


def predict(order: dict[str, Any]) -> dict[str, Any]:
    """Bytes and seconds of an ordinary step on the card of `order`, None being the CPU, where no seconds are known."""
    from galore.trainer.fit.duration import duration_on
    from galore.trainer.fit.hostmemory import INPUTS, host_profile
    from galore.trainer.fit.predict import predict as traced
    from galore.trainer.machine.cards import Card

    loaded = _loaded(order)
    about = order["card"]
    card = None if about is None else Card(**about | {"capability": tuple(about["capability"])})
    trace, host = traced(loaded, card), host_profile(loaded, "cpu" if card is None else "cuda")
    lasting = None if card is None else duration_on(loaded, trace, card, None)
    there, back = host.bus
    return {
        "card": max(trace.requested()),
        "host": sum(host.pinned.values()) - host.pinned[INPUTS],
        "there": there,
        "back": back,
        "seconds": None if lasting is None else sorted(step.seconds for step in lasting.ordinary),
    }


def measure(order: dict[str, Any]) -> dict[str, Any]:
    """The same of real steps; `seconds` are the median of a few ordinary ones."""
    import torch

    from galore.trainer.fit.measure import MICRO_BATCHES as CARRIED_OUT
    from galore.trainer.fit.rehearsal import ORDINARY, Rehearsal
    from galore.trainer.memory.trace.tracer import Tracer
    from galore.trainer.memory.workspaces.casts import cpu_workspaces

    kind = "cpu" if order["rehearsal"] else "cuda"
    if kind == "cuda":
        from galore.trainer.machine.cards import card
        from galore.trainer.machine.process import ask_for_expandable_segments
        from gpu.limited import limit

        ask_for_expandable_segments(True)
        limit(card("rtx4090").usable_low - card("rtx4090").context_high)
    draw_cheaply()
    loaded = _loaded(order)
    tracer = Tracer(kind, cpu_workspaces if kind == "cpu" else None)
    rehearsal = Rehearsal.prepare(loaded, kind, tracer, CARRIED_OUT)
    rehearsal.run()
    peak = torch.cuda.max_memory_allocated() if kind == "cuda" else max(tracer.trace.requested())
    there, back = rehearsal.moved[ORDINARY]
    return {
        "card": peak,
        "host": sum(host.most for host in rehearsal.hosts()),
        "there": there,
        "back": back,
        "seconds": median(rehearsal.time_steps(TIMED)),
        "tokens": loaded.recipe.train.global_batch_size * loaded.recipe.data.max_length,
    }


if __name__ == "__main__":
    print(json.dumps({"predict": predict, "measure": measure}[sys.argv[1]](json.loads(sys.argv[2]))))
