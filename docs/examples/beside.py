"""One training beside another: GaLore and AdamW on the same network and data, over seeds. Shared by the examples."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from galore.trainer.memory.live import by_category
from galore.trainer.optim import GaLoreAdamW, check_complete, galore_groups, large_matrices

Make = Callable[[nn.Module], torch.optim.Optimizer]


def adamw(model: nn.Module, rate: float = 2e-3) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)


def galore(model: nn.Module) -> torch.optim.Optimizer:
    """A quarter of each large matrix's smaller side, convolutions included, and the signs of what lies outside (FRUGAL)."""
    outside = {"residual": "frugal", "residual_scale": 0.4, "transport": "rotate"}
    groups = galore_groups(model, 0.25, targets=large_matrices(), scale=1.0, update_proj_gap=50, **outside)
    check_complete(model, groups)
    return GaLoreAdamW(groups, lr=8e-3, weight_decay=0.0)


def state_bytes(model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """What the optimizer keeps from step to step, projectors included."""
    held = by_category(model, optimizer)
    return held["optimizer_states"] + held["projectors"]


def projected(model: nn.Module) -> str:
    """How much of the network `galore` projects, in words."""
    of = [each.weight for name, each in model.named_modules() if large_matrices()(name, each)]
    kernels = [weight for weight in of if weight.ndim > 2]
    total = sum(parameter.numel() for parameter in model.parameters())
    share = sum(weight.numel() for weight in of) / total
    return f"{len(of)} matrices, {len(kernels)} of them kernels: {share:.0%} of {total:,} parameters"


def arguments(steps: int, seeds: int = 3) -> argparse.Namespace:
    """What every example takes from its command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=steps, help="optimizer steps of each training")
    parser.add_argument("--seeds", type=int, default=seeds)
    torch.set_num_threads(1)
    return parser.parse_args()


def compared(
    train: Callable[[int, Make], tuple[nn.Module, torch.optim.Optimizer, dict[str, float]]],
    seeds: int,
    other: Make = adamw,
) -> Any:
    """Trains with both over the seeds, prints the table, and returns {method: (networks, scores, bytes)}."""
    found: dict[str, Any] = {}
    for name, make in (("AdamW", other), ("GaLore", galore)):
        started, models, scores, held = time.perf_counter(), [], [], 0
        for seed in range(seeds):
            model, optimizer, score = train(seed, make)
            models.append(model)
            scores.append(score)
            held = state_bytes(model, optimizer)
            if isinstance(optimizer, GaLoreAdamW):
                optimizer.release()
        found[name] = models, scores, held
        told = ", ".join(f"{key} {spread([each[key] for each in scores])}" for key in scores[0])
        print(f"{name}: {told}; states {held:,} bytes; {time.perf_counter() - started:.0f} s", flush=True)
    print(f"GaLore projects {projected(found['GaLore'][0][0])}; its states are {ratio(found):.2f} of AdamW's")
    return found


def ratio(found: dict[str, Any]) -> float:
    return float(found["GaLore"][2] / found["AdamW"][2])


def spread(values: list[float]) -> str:
    """Mean ± standard deviation over the seeds."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.4f} ± {deviation:.4f}"
