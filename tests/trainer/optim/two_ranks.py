"""A small network trained by every method, in one process or in the ranks that its environment names.

`python two_ranks.py FILE` leaves what each method came to in FILE.RANK, for a test that compares.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn

from galore.trainer.optim import GaLoreAdamW, adamw_groups, galore_groups, project_in_backward
from galore.trainer.optim.ranks import Ranks
from galore.trainer.parallel.group import join, leave
from galore.trainer.parallel.traffic import traffic

STEPS, MICRO_BATCHES, GAP, POISONED = 7, 4, 3, 4  # the last: a step whose second micro-batch is nan
METHODS: dict[str, dict[str, Any]] = {
    **{mode: {"refresh": mode} for mode in ("delayed", "summed", "first-micro-batch")},
    "two-pass": {"refresh": "two-pass", "stagger": False},
    **{kind: {"proj_type": kind} for kind in ("svd", "random", "dct", "power")},
    **{rule: {"residual": rule} for rule in ("fira", "frugal")},
    "apollo": {"residual": "apollo", "proj_type": "random"},
    **{rule: {"inner": rule} for rule in ("muon", "adafactor")},
    "8bit": {"state_dtype": "8bit"},
    "bfloat16 sums": {"accumulator_dtype": torch.bfloat16},
    "full": {},
}
IN_BACKWARD = ("delayed", "two-pass", "first-micro-batch", "full")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.norm = nn.Embedding(50, 64), nn.LayerNorm(64)
        self.a, self.b = nn.Linear(64, 80, bias=False), nn.Linear(80, 64, bias=False)
        self.head = nn.Linear(64, 50, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.norm(self.b(torch.relu(self.a(self.embedding(ids))))))  # type: ignore[no-any-return]


def run(method: str, ranks: Any, in_backward: bool) -> dict[str, Any]:
    """Norms, weights, and the bytes sent and predicted of each step."""
    torch.manual_seed(0)
    net, settings = Net(), dict(METHODS[method])
    groups = (
        adamw_groups(net.named_parameters(), 0.0) if method == "full" else galore_groups(net, 4, targets=("a", "b"))
    )
    groups[0]["inner"] = settings.pop("inner", "adamw")  # vectors stay with AdamW
    # eps: without it Adam takes a rounding error in a gradient of nearly zero for a whole step
    common = {"lr": 1e-2, "eps": 1e-5, "update_proj_gap": GAP, "max_grad_norm": 0.5, "accumulation": MICRO_BATCHES}
    optimizer = GaLoreAdamW(groups, ranks=ranks, **common, **settings)  # type: ignore[arg-type]
    if in_backward:
        project_in_backward(net, optimizer)
    found: dict[str, Any] = {"norms": [], "skipped": [], "sent": [], "predicted": []}
    for step in range(STEPS):
        before, predicted = Counter(ranks.sent) if ranks else Counter(), traffic(optimizer, optimizer.clock)
        if optimizer.wants_sketch_pass:
            with optimizer.sketching():
                accumulate(net, step, ranks)
        accumulate(net, step, ranks)
        optimizer.step()
        assert optimizer.report is not None
        found["norms"].append(optimizer.report.grad_norm)
        found["skipped"].append(optimizer.report.skipped)
        if ranks:
            sent = Counter(ranks.sent) - before
            found["sent"].append(sent["sum"] + sent["copy"])
            found["predicted"].append(predicted.total())
            found["kinds"] = dict(predicted)
    return found | {"weights": {name: each.detach().clone() for name, each in net.named_parameters()}}


def accumulate(net: Net, step: int, ranks: Ranks | None) -> None:
    rank, size = (ranks.rank, ranks.size) if ranks else (0, 1)
    for number in range(rank * MICRO_BATCHES // size, (rank + 1) * MICRO_BATCHES // size):
        draw = torch.Generator().manual_seed(1000 * step + number)
        ids, labels = (torch.randint(0, 50, (4, 16), generator=draw) for _ in range(2))
        loss = nn.functional.cross_entropy(net(ids).view(-1, 50), labels.view(-1)) / MICRO_BATCHES
        (loss * (torch.nan if (step, number) == (POISONED, 1) else 1.0)).backward()  # type: ignore[no-untyped-call]


def every_method(ranks: Any) -> dict[str, Any]:
    hooked = {method: run(method, ranks, in_backward=False) for method in METHODS}
    return hooked | {f"{method}, in the backward": run(method, ranks, in_backward=True) for method in IN_BACKWARD}


if __name__ == "__main__":
    torch.set_num_threads(1)
    group = join("cpu")
    assert group is not None
    torch.save(every_method(group), f"{sys.argv[1]}.{group.rank}")
    leave()
    os._exit(0)  # no clean-up of threads that a test would wait for
