"""The fused kernels timed on the card, for every shape of LLaMA-7B, against its floor and the prediction; and a launch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from gpu.records import Records
from gpu.scale import Scale

IMPOSSIBLE = 0.9  # of the floor: a time below it was measured wrongly
SMALL = (256, 512, 64)  # a, b, r of launches whose host is timed: the card has done with them sooner
LAUNCHES = 200
REHEARSED = (1, 1e-3)  # shapes, and the seconds that stand for every measurement


def prove(scale: Scale, records: Records) -> None:
    from galore.kernels.predict.card import H100

    predicted = {(row.a, row.b, row.r): row for row in _predicted(scale)}
    measured = _measured(scale)
    if not predicted:
        records.note("this card's figures are not known: no prediction, no floor")
    for row in measured:
        shape = (row["a"], row["b"], row["r"])
        expected, ok = predicted.get(shape), None
        figures: dict[str, Any] = {name: row[name] for name in ("ours", "unfused")}
        if expected is not None:
            figures |= {"floor": expected.floor, "share_of_floor": expected.floor / row["ours"]}
            figures |= {"ours_predicted": expected.ours}
            ok = row["ours"] >= IMPOSSIBLE * expected.floor
        records.note(f"{shape[0]}×{shape[1]} r{shape[2]}, microseconds per update", ok=ok, **figures)
    if scale.rehearsal:
        records.note(f"left out in a rehearsal: timing; predictions are for {H100.name}")
    else:
        launches(scale.device, records)


def _predicted(scale: Scale) -> list[Any]:
    import torch

    from galore.kernels.predict.card import H100, card_named
    from galore.kernels.predict.predicted import Predictor
    from galore.kernels.predict.sequences import rows

    card = H100 if scale.rehearsal else card_named(torch.cuda.get_device_name())
    return list(rows(Predictor(card)))[: REHEARSED[0] if scale.rehearsal else None] if card else []


def _measured(scale: Scale) -> list[dict[str, Any]]:
    import torch

    from galore.kernels.predict.timed import measured

    if not scale.rehearsal:
        return measured(torch.device("cuda", torch.cuda.current_device()))
    from galore.kernels.predict.sequences import LLAMA_7B, RANKS

    seconds = 1e6 * REHEARSED[1]
    shapes = [(a, b, r) for a, b in LLAMA_7B for r in RANKS][: REHEARSED[0]]
    return [{"a": a, "b": b, "r": r, "ours": seconds, "unfused": seconds} for a, b, r in shapes]


def launches(device: str, records: Records) -> None:
    """Bits that kernels leave behind, and microseconds of the host, by launches that find them and by Triton's way."""
    from galore.kernels.triton import direct

    records.note(
        "launches find compiled kernels", ok=not direct.refusal(), why=direct.refusal() or "a version that is known"
    )
    for name, plan in _plans():
        (triton, mine), (found, other) = (_launched(plan, device, way) for way in (_ordinary, _found))
        same = all(one.equal(two) for one, two in zip(mine, other, strict=True))
        records.note(
            f"{name}: a launch that finds its kernel leaves the same bits", ok=same, host=found, tritons_way=triton
        )


def _plans() -> Iterator[tuple[str, list[Any]]]:
    from galore.kernels.predict import catalogue

    a, b, r = SMALL
    yield "adam", catalogue.adam(b, r, "dynamic")
    yield "lift", catalogue.lift(a, b, r, "stochastic")
    yield "project from int4", catalogue.project(a, b, r, bits=4)


def _launched(plan: list[Any], device: str, way: Callable[[Any], None]) -> tuple[float, list[Any]]:
    """Microseconds of the host per launch, and the bytes of every tensor after two."""
    import torch

    from galore.kernels.predict.measure import realized

    torch.manual_seed(0)
    real = realized(plan, torch.device(device))
    for each in (*real, *real):
        way(each)
    tensors = [x.clone().view(torch.uint8) for each in real for x in each.arguments.values() if torch.is_tensor(x)]
    _wait(device)
    start = time.perf_counter()
    for _ in range(LAUNCHES):
        for each in real:
            way(each)
    seconds = time.perf_counter() - start
    _wait(device)
    return 1e6 * seconds / LAUNCHES / len(real), tensors


def _wait(device: str) -> None:
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def _ordinary(launch: Any) -> None:
    from galore.kernels.triton import direct

    given, options = {**launch.arguments, **launch.constants}, (launch.warps, launch.stages)
    direct.ordinary(launch.kernel, launch.grid, given, options)


def _found(launch: Any) -> None:
    launch.run()
