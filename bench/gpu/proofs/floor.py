"""The fused kernels timed on the card, for every shape of LLaMA-7B: against its floor, and against the prediction for it."""

from __future__ import annotations

from typing import Any

from gpu.records import Records
from gpu.scale import Scale

IMPOSSIBLE = 0.9  # of the floor: a time below it was measured wrongly
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
