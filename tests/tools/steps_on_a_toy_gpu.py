"""Steps of the optimizer on the toy GPU and on the CPU: prints how far apart they end, and what was waited for, as JSON.

With GALORE_BACKEND=torch; otherwise kernels are launched, which nobody runs: then it prints them, and their operands
have been looked at.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import torch
import toy_gpu
from torch import Tensor, nn

from galore.kernels.model.cross_entropy import linear_loss
from galore.kernels.storage import rounding
from galore.trainer.optim import GaLoreAdamW, galore_groups, hand_over_int8, project_in_backward, to_int8
from galore.trainer.optim.parts import storage

ROWS, WIDTH, VOCABULARY, STEPS = 32, 24, 50, 4
CASES: dict[str, dict[str, Any]] = {
    "randomized": {},
    "svd": {"proj_type": "svd"},
    "power": {"proj_type": "power", "refresh": "summed", "by_factors": False},
    "dct": {"proj_type": "dct"},
    "random": {"proj_type": "random"},
    "fp8": {"state_dtype": "fp8"},
    "8bit": {"state_dtype": "8bit"},
    "int4": {"projector_dtype": "int4", "refresh_overlap": 0.4},
    "fira": {"residual": "fira"},
    "apollo": {"residual": "apollo", "proj_type": "random"},
    "frugal": {"residual": "frugal"},
    "alice": {"residual": "alice", "switch": 0.5, "transport": "complete"},
    "orthogonal": {"residual": "orthogonal"},
    "joint": {"residual": "joint", "inner": "muon"},
    "normed": {"residual": "joint", "inner": "normuon"},
    "in parts": {"residual": "joint-4bit", "inner": "normuon", "smallest_quantized": 1000},
    "sampled": {"residual": "sampled", "inner": "muon", "sampled_share": 0.3},
    "4bit": {"rank": None, "inner": "muon", "state_dtype": "4bit", "smallest_quantized": 1000},
    "racs": {"inner": "racs"},
    "soap": {"inner": "soap"},
    "soap of all": {"rank": None, "inner": "soap"},
    "scale": {"rank": None, "inner": "scale"},
    "muon": {"inner": "muon"},
    "sumo": {"inner": "sumo"},
    "adafactor": {"inner": "adafactor"},
    "full": {"rank": None},
    "reference": {"convention": "reference", "proj_type": "svd", "stagger": False},
    "immediate": {"update": "immediate"},
    "bf16": {"dtype": torch.bfloat16},
    "compensated": {"dtype": torch.bfloat16, "weight_rounding": "compensated"},
    "int8 weights": {"dtype": torch.bfloat16, "int8": True},
}


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.norm = nn.Embedding(VOCABULARY, WIDTH), nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH, bias=False), nn.Linear(2 * WIDTH, WIDTH)
        self.gate = nn.Linear(WIDTH, WIDTH, bias=False)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)

    def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        x = self.gate(self.norm(self.embedding(ids)))
        hidden = x + self.down(torch.tanh(self.up(x)))
        return linear_loss(hidden, self.head.weight, targets, ignore_index=None, chunk=20).total / len(ids)


def carried_out(
    gpu: toy_gpu.ToyGpu | None,
    *,
    rank: int | None = 5,
    dtype: torch.dtype = torch.float32,
    int8: bool = False,
    by_factors: bool = True,
    inner: str = "adamw",
    smallest_quantized: int = storage.SMALLEST_QUANTIZED,
    **options: Any,
) -> tuple[Tensor, dict[str, int]]:
    """How far all weights went in some steps of two micro-batches, of one where they are immediate; what was waited for in the last one, no layer's turn."""
    torch.manual_seed(0)
    storage.SMALLEST_QUANTIZED = smallest_quantized
    model = Network().to(dtype)
    if int8:
        for layer in (model.up, model.gate):
            to_int8(layer)
    start = flat(model)
    if gpu is not None:
        toy_gpu.moved(model)
    groups = galore_groups(model, rank, targets=["up", "down", "gate"], inner=inner)
    optimizer = GaLoreAdamW(groups, lr=1e-2, update_proj_gap=4, **options)
    hand_over_int8(model, optimizer)
    if by_factors:
        project_in_backward(model, optimizer)
    for step in range(STEPS):
        draw = torch.Generator().manual_seed(step)
        count = 1 if optimizer.update == "immediate" else 2
        micro_batches = [tuple(torch.randint(VOCABULARY, (2, ROWS), generator=draw)) for _ in range(count)]
        if gpu is not None:
            micro_batches = [(toy_gpu.Held(ids), toy_gpu.Held(targets)) for ids, targets in micro_batches]
            gpu.waits.clear()
        for ids, targets in micro_batches:
            model.loss(ids, targets).backward()  # type: ignore[no-untyped-call]
        if optimizer.update == "accumulate":
            optimizer.clip_grad_norm_(0.5)
        optimizer.step()
    return flat(model) - start, dict(gpu.waits) if gpu else {}


def flat(model: nn.Module) -> Tensor:
    """All weights, codes as numbers, on the CPU."""
    weights = [p.inner if isinstance(p.data, toy_gpu.Held) else p for p in (q.data for q in model.parameters())]
    return torch.cat([weight.double().flatten() for weight in weights])


def watched(launched: Counter[str]) -> None:
    """Count kernels in the place of running them, with zeros for results; all operands of one are on the device."""

    def run(launch: Any) -> None:
        tensors = [value for value in launch.arguments.values() if isinstance(value, Tensor)]
        assert all(isinstance(tensor, toy_gpu.Held) for tensor in tensors), launch.name
        launched[launch.name] += 1
        if "OUT" in launch.arguments:
            launch.arguments["OUT"].zero_()

    from galore.kernels.triton.launch import Launch

    Launch.run = run  # type: ignore[method-assign]


def main(names: list[str]) -> None:
    gpu, launched, by_torch = toy_gpu.start(), Counter[str](), os.environ.get("GALORE_BACKEND") == "torch"
    rounding.BLOCK["cuda"] = rounding.BLOCK["cpu"]  # so that random bits are the same
    if not by_torch:
        watched(launched)
    for name in names or CASES:
        options = CASES[name]
        expected, _ = carried_out(None, **options) if by_torch else (torch.ones(()), {})
        launched.clear()
        with gpu:
            found, waits = carried_out(gpu, **options)
        distance = float((found - expected).norm() / expected.norm())
        print(json.dumps({"name": name, "distance": distance, "waits": waits, "launched": launched}), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
