"""Predicted against measured memory: peaks of the first, an ordinary and a refresh step, by the allocator and by the driver.

Predictions are made without the card, in processes beside; measurements in processes that may take no more than the card
that their recipe names.
"""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from gpu.cheap import draw_cheaply
from gpu.records import Records
from gpu.scale import GIB, Scale

GOAL = 0.01  # of the measured peak
PREDICTORS = 12  # processes at the same time: all, each on one core
CARDS = {
    **{"7b-24gb": "rtx4090", "13b-24gb": "rtx4090", "7b-16gb": "rtx4080", "7b-12gb": "rtx4070", "1b-8gb": "rtx4060"},
    "retnet-1.3b": "rtx4090",
}
SMALL = ("demo", *(f"llama-60m{method}" for method in ("-full", "-galore", "-galore-8bit", "-lora")), "llama-350m")
MIDDLE = ("llama-1b-8gb", "retnet-1.3b")
LARGE = ("llama-7b-24gb", "llama-7b-12gb", "llama-7b-16gb", "llama-13b-24gb")
GROWING, FIXED = "growing", "fixed"
OTHERS, LARGEST = 40 * GIB, 24 * GIB  # of the card: what other proofs take at the same time, and what a recipe takes


@dataclass(frozen=True)
class Row:
    """One measurement: a recipe with segments that grow, or of fixed size."""

    recipe: str
    segments: str

    @property
    def named(self) -> str | None:
        """The card that the recipe is for, where it names one."""
        return next((card for part, card in CARDS.items() if self.recipe.endswith(part)), None)


def rows(segments: str) -> list[Row]:
    """All of them, in order of value."""
    return [Row(recipe, segments) for recipe in (*SMALL, *MIDDLE, *LARGE)]


def prove(scale: Scale, records: Records) -> None:
    compare_all([Row(recipe, GROWING) for recipe in (*SMALL, *MIDDLE)], scale, records)


def compare_all(wanted: list[Row], scale: Scale, records: Records) -> None:
    """Small recipes in one process, large ones in one each, as many at a time as the card has room for."""
    wanted = [Row("llama-60m-galore", wanted[0].segments)] if scale.rehearsal else wanted
    segments = wanted[0].segments
    card = None if scale.rehearsal else _child("here", [], None, scale)
    if card and "failed" in card:
        raise RuntimeError(f"the card cannot be asked: {card['failed']}")
    small, large = [row for row in wanted if row.named is None], [row for row in wanted if row.named]
    with ThreadPoolExecutor(PREDICTORS) as pool, ThreadPoolExecutor(_at_once(card)) as several:
        predicted = {
            row.recipe: pool.submit(_child, "predict", [row.recipe], card, scale, segments=segments) for row in wanted
        }

        def compare(group: list[Row]) -> None:
            for row, found in zip(group, _measure(group, card, scale), strict=True):
                _compare(row, predicted[row.recipe], found, records)

        for done in [several.submit(compare, group) for group in (small, *([row] for row in large)) if group]:
            done.result()


def _at_once(card: dict[str, Any] | None) -> int:
    """How many processes measure at the same time."""
    return 1 if card is None else max(1, int((card["usable_low"] - OTHERS) // LARGEST))


def _measure(group: list[Row], card: dict[str, Any] | None, scale: Scale) -> list[dict[str, Any]]:
    limit = {"limit": _room(group[0])} if group[0].named and not scale.rehearsal else {}
    names = [row.recipe for row in group]
    found = _child("measure", names, card, scale, segments=group[0].segments, **limit)
    return found if isinstance(found, list) else [found] * len(group)


def _child(verb: str, recipes: list[str], card: dict[str, Any] | None, scale: Scale, **more: Any) -> Any:
    """What a process of its own says of `recipes`; one that predicts does not see the card."""
    alone = {"CUDA_VISIBLE_DEVICES": ""} if verb == "predict" else {}
    few = {"OMP_NUM_THREADS": "1"}  # many such processes run at the same time
    return scale.asked("gpu.proofs.memory", verb, {"recipes": recipes, "card": card} | more, **alone, **few)


def _compare(row: Row, awaited: Future[Any], measured: dict[str, Any], records: Records) -> None:
    what, predicted = f"{row.recipe}, segments {row.segments}", awaited.result()
    predicted = predicted[0] if isinstance(predicted, list) else predicted
    for side, found, other in (("prediction", predicted, measured), ("measurement", measured, predicted)):
        if "failed" in found:  # what the other side said is kept
            kept = {f"{name}_gib": other[name] / 2**30 for name in ("allocated", "total") if other.get(name)}
            records.note(f"{what}: {side} failed: {found['failed']}", ok=False, **kept)
            return
    pairs = {"allocated": (predicted["allocated"], measured["allocated"])}
    if measured["reserved"]:
        pairs["reserved"] = (predicted["reserved"][row.segments], measured["reserved"])
    if measured["total"]:
        pairs["total"] = (pairs["reserved"][0] + predicted["context"], measured["total"])
    errors = {f"{name}_error": (ours - theirs) / theirs for name, (ours, theirs) in pairs.items()}
    gib = {f"{name}_gib": theirs / 2**30 for name, (_, theirs) in pairs.items()}
    steps = {
        f"{phase.replace(' ', '_')}_error": (predicted["phases"][phase] - nbytes) / nbytes
        for phase, nbytes in measured["phases"].items()
        if nbytes and phase in predicted["phases"]
    }
    held = abs(errors["allocated_error"]) <= GOAL and abs(errors.get("reserved_error", 0.0)) <= GOAL
    left_over = {"left_over_mib": measured["left_over"] / 2**20} if measured.get("left_over") else {}
    records.note(what, ok=held, **errors, **gib, **steps, **left_over, seconds=measured["seconds"])


def here(order: dict[str, Any]) -> dict[str, Any]:
    """The card, asked in a process that ends: a context that stays would count in what is measured."""
    from galore.trainer.machine.cards import attached

    card = attached()
    assert card is not None, "there is no card"
    return asdict(card)


def _room(row: Row) -> int:
    """Bytes that the allocator has on the card that the recipe names: all but the context."""
    from galore.trainer.machine.cards import card

    assert row.named is not None
    named = card(row.named)
    return named.usable_low - named.context_high


def _loaded(name: str, order: dict[str, Any]) -> Any:
    from pathlib import Path

    from galore.trainer.recipe.load import load_recipe

    scale = Scale(order["rehearsal"], Path(order["folder"]))
    return load_recipe(
        name, scale.settings(train__micro_batch_size=1, train__global_batch_size=4) if scale.rehearsal else []
    )


def predict(order: dict[str, Any]) -> list[dict[str, Any]]:
    """Upper bounds in bytes for the card of `order`, None being the CPU."""
    _set_segments(order)

    from galore.trainer.fit.predict import predict as traced
    from galore.trainer.fit.predict import profile_on
    from galore.trainer.machine.cards import Card
    from galore.trainer.memory.profile import phases

    found = []
    for name in order["recipes"]:
        loaded = _loaded(name, order)
        if order["card"] is None:
            trace = traced(loaded, None)
            found.append({"allocated": max(trace.requested()), "reserved": {}, "context": 0, "phases": phases(trace)})
            continue
        about = order["card"] | {"capability": tuple(order["card"]["capability"])}
        profile = profile_on(loaded, Card(**about))
        found.append(
            {
                "allocated": profile.allocated.high,
                "reserved": {GROWING: profile.reserved(True).high, FIXED: profile.reserved(False).high},
                "context": profile.card.context_high,
                "phases": profile.phases,
            }
        )
    return found


def measure(order: dict[str, Any]) -> list[dict[str, Any]]:
    """Bytes of real steps of every recipe of `order`."""
    import time

    _set_segments(order)

    import torch

    from galore.trainer.fit.measure import measure as carried_out
    from galore.trainer.memory.profile import phases

    draw_cheaply()
    if "limit" in order:
        from gpu.limited import limit

        limit(order["limit"])
    device = torch.device("cpu" if order["rehearsal"] else "cuda")
    found = []
    for name in order["recipes"]:
        started, left_over = time.perf_counter(), _as_if_new(device)
        measured = carried_out(_loaded(name, order), device)
        steps = measured.phases or phases(measured.trace)
        mine = {"allocated": measured.allocator_bytes, "reserved": 0, "total": 0, "phases": steps}
        if device.type == "cuda":
            mine |= {"reserved": torch.cuda.max_memory_reserved()}
            if held := _held():
                mine["total"] = held - torch.cuda.memory_reserved() + mine["reserved"]
        found.append(mine | {"seconds": round(time.perf_counter() - started, 1), "left_over": left_over})
        del measured
    return found


def _held() -> int:
    """Bytes of the card that the driver counts as this process's; 0 where it does not tell."""
    try:
        import pynvml
    except ImportError:
        return 0
    pynvml.nvmlInit()
    running = pynvml.nvmlDeviceGetComputeRunningProcesses(pynvml.nvmlDeviceGetHandleByIndex(0))
    return next((each.usedGpuMemory or 0 for each in running if each.pid == os.getpid()), 0)


def _set_segments(order: dict[str, Any]) -> None:
    """For torch, before it comes, and for a prediction, which is of what the environment says."""
    os.environ["PYTORCH_CUDA_ALLOC_CONF"] = f"expandable_segments:{order['segments'] == GROWING}"


def _as_if_new(device: Any) -> int:
    """Give back what an earlier recipe left in this process, cuBLAS' workspaces too; returns the bytes that stay."""
    import gc

    import torch

    gc.collect()
    if device.type != "cuda":
        return 0
    torch._C._cuda_clearCublasWorkspaces()
    torch.cuda.empty_cache()
    return torch.cuda.memory_allocated()


if __name__ == "__main__":
    print(json.dumps({"here": here, "predict": predict, "measure": measure}[sys.argv[1]](json.loads(sys.argv[2]))))
