"""A small network trained in shards by the ranks that the environment names, or whole in one process.

`python sharded_ranks.py FILE` leaves what each method came to in FILE.RANK, for a test that compares.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn

from galore.trainer.optim import GaLoreAdamW, adamw_groups, galore_groups, hand_over_int8, project_in_backward, to_int8
from galore.trainer.parallel.entered import entered
from galore.trainer.parallel.group import Group, join, leave
from galore.trainer.parallel.sharding import hand_over, shard

STEPS, MICRO_BATCHES, GAP, POISONED = 5, 4, 2, 3  # the last: a step whose second micro-batch is nan
RANK = 4
METHODS: dict[str, dict[str, Any]] = {
    **{mode: {"refresh": mode} for mode in ("delayed", "summed", "first-micro-batch")},
    "two-pass": {"refresh": "two-pass", "stagger": False},
    **{kind: {"proj_type": kind} for kind in ("random", "dct")},
    "rotate": {"transport": "rotate"},
    "8bit": {"state_dtype": "8bit"},
    "int8": {"weight_dtype": "int8", "weight_rounding": "nearest"},
    "full": {},
}


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(64)
        self.a, self.b = nn.Linear(64, 96, bias=False), nn.Linear(96, 64)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(torch.relu(self.a(self.norm(x))))  # type: ignore[no-any-return]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.blocks = nn.Embedding(51, 64), nn.ModuleList(Block() for _ in range(2))
        self.norm, self.head = nn.LayerNorm(64), nn.Linear(64, 51, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))  # type: ignore[no-any-return]


def build(method: str, group: Group | None) -> tuple[Net, GaLoreAdamW]:
    torch.manual_seed(0)
    net, settings = Net(), dict(METHODS[method])
    if settings.pop("weight_dtype", None):
        for block in net.blocks:
            to_int8(block.a)
    common = {"lr": 1e-2, "eps": 1e-5, "update_proj_gap": GAP, "max_grad_norm": 0.5, "accumulation": MICRO_BATCHES}

    def groups() -> list[dict[str, Any]]:
        if method == "full":
            return adamw_groups(net.named_parameters(), 0.0)
        return galore_groups(net, RANK, targets=("a", "b"))

    if group is not None:
        along = {id(p): 0 if p.shape[0] >= p.shape[1] else 1 for p in net.blocks.parameters() if p.ndim == 2}
        shard(net, list(net.blocks), group, torch.device("cpu"), torch.float32, along if method != "full" else {})
    optimizer = GaLoreAdamW(groups(), ranks=group, **common, **settings)  # type: ignore[arg-type]
    hand_over_int8(net, optimizer)
    project_in_backward(net, optimizer)
    if group is not None:
        hand_over(net, optimizer)
    return net, optimizer


def run(method: str, group: Group | None) -> dict[str, Any]:
    """Norms, weights, and the bytes sent of each step."""
    net, optimizer = build(method, group)
    found: dict[str, Any] = {"norms": [], "skipped": [], "sent": [], "losses": []}
    for step in range(STEPS):
        before = Counter(group.sent) if group else Counter[str]()
        if optimizer.wants_sketch_pass:
            with optimizer.sketching():
                accumulate(net, step, group)
        found["losses"].append(accumulate(net, step, group))
        optimizer.step()
        assert optimizer.report is not None
        found["norms"].append(optimizer.report.grad_norm)
        found["skipped"].append(optimizer.report.skipped)
        found["sent"].append(dict(Counter(group.sent) - before) if group else {})
    whole = {name: getattr(p, "full_tensor", lambda p=p: p)().detach() for name, p in net.named_parameters()}
    return found | {"weights": whole}


def accumulate(net: Net, step: int, group: Group | None) -> float:
    rank, size = (group.rank, group.size) if group else (0, 1)
    total = 0.0
    for number in range(rank * MICRO_BATCHES // size, (rank + 1) * MICRO_BATCHES // size):
        draw = torch.Generator().manual_seed(1000 * step + number)
        ids, labels = (torch.randint(0, 51, (4, 16), generator=draw) for _ in range(2))

        def loss(ids: Tensor = ids, labels: Tensor = labels, number: int = number) -> Tensor:
            found = nn.functional.cross_entropy(net(ids).view(-1, 51), labels.view(-1)) / MICRO_BATCHES
            return found * (torch.nan if (step, number) == (POISONED, 1) else 1.0)

        lost = entered(net, loss)
        lost.backward()  # type: ignore[no-untyped-call]
        total += float(lost)
    return total if group is None else group.total(total)


def every_method(group: Group | None) -> dict[str, Any]:
    return {method: run(method, group) for method in METHODS}


if __name__ == "__main__":
    torch.set_num_threads(1)
    joined = join("cpu")
    assert joined is not None
    torch.save(every_method(joined), f"{sys.argv[1]}.{joined.rank}")
    leave()
    os._exit(0)  # no clean-up of threads that a test would wait for
