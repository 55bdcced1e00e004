"""One update of each shape of LLaMA-7B on a real card: our kernels against torch's, and against the card's floor."""

from __future__ import annotations

from typing import Any

import torch

from galore.kernels.ops.direction import adam_direction_
from galore.kernels.ops.projection import lift_update_, project
from galore.kernels.predict.card import Card, card_named
from galore.kernels.predict.measure import Timer, cuda_timer, realized
from galore.kernels.predict.sequences import LLAMA_7B, RANKS, floor, ours
from galore.kernels.rules.adam import AdamRule
from galore.kernels.storage.moments import Moments
from galore.kernels.storage.rounding import RoundingNoise
from galore.kernels.triton.launch import run


def measured(device: torch.device, timer: Timer | None = None) -> list[dict[str, Any]]:
    """A row for each shape and rank, in microseconds, and the share of the card's floor where its figures are known."""
    timer = timer or cuda_timer(device)
    card = card_named(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    return [_row(a, b, r, device, timer, card) for a, b in LLAMA_7B for r in RANKS]


def _row(a: int, b: int, r: int, device: torch.device, timer: Timer, card: Card | None) -> dict[str, Any]:
    kernels = realized(ours(a, b, r), device)
    p, g = (torch.randn(*shape, device=device, dtype=torch.bfloat16) for shape in ((a, r), (a, b)))
    own = timer(lambda: project(p, g, backend="torch")) + timer(lambda: run(kernels))
    times = {"ours": own, "unfused": timer(_by_torch(p, g))}
    share = {"share of the floor": round(floor(a, b, r, card) / own, 2)} if card else {}
    return {"a": a, "b": b, "r": r} | {name: round(1e6 * seconds, 1) for name, seconds in times.items()} | share


def _by_torch(p: torch.Tensor, g: torch.Tensor) -> Any:
    """An update by cuBLAS and torch's elementwise kernels, moments in fp32: bitsandbytes is no part of this."""
    b, r, device = g.shape[1], p.shape[1], g.device
    w, n = torch.randn_like(g), torch.empty(r, b, dtype=torch.bfloat16, device=device)
    moments, noise = (
        Moments(*(torch.zeros(r, b, device=device, dtype=torch.float32) for _ in range(2))),
        RoundingNoise(0, 0, device),
    )

    def update() -> None:
        found = project(p, g, backend="torch").float()
        adam_direction_(n, found, moments, AdamRule(), step=3, backend="torch")
        lift_update_(w, p, n, alpha=1e-3, noise=noise, transposed=False, backend="torch")

    return update
