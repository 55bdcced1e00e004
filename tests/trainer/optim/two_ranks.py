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
from galore.trainer.parallel.group import join, leave
from galore.trainer.parallel.traffic import traffic

STEPS, MICRO_BATCHES, GAP, POISONED = 7, 4, 3, 4  # the last: a step whose second micro-batch is nan
METHODS: dict[str, dict[str, Any]] = {
    **{mode: {"refresh": mode} for mode in ("delayed", "summed", "first-micro-batch")},
    "two-pass": {"refresh": "two-pass", "stagger": False},
    "dct, first-micro-batch": {"proj_type": "dct", "refresh": "first-micro-batch"},
    **{kind: {"proj_type": kind} for kind in ("svd", "random", "dct", "power")},
    **{rule: {"residual": rule} for rule in ("fira", "frugal", "columns", "orthogonal")},
    "apollo": {"residual": "apollo", "proj_type": "random"},
    "alice": {"residual": "alice", "switch": 0.7, "transport": "keep"},
    **{rule: {"inner": rule} for rule in ("muon", "adafactor")},
    "joint": {"inner": "muon", "residual": "joint"},
    "in parts": {"inner": "muon", "residual": "joint-4bit"},
    "sampled": {"inner": "muon", "residual": "sampled", "sampled_share": 0.4},
    "sampled, summed": {"inner": "muon", "residual": "sampled", "refresh": "summed"},
    **{f"{rule}, full rank": {"rank": None, "inner": rule} for rule in ("muon", "racs", "scale")},
    "8bit, full rank": {"rank": None, "state_dtype": "8bit"},
    "bfloat16 sums": {"accumulator_dtype": torch.bfloat16},
    "full": {},
}
# A code at the edge between two falls either way with a sum's last bit, and a processor may round sums of four in this
# order or that. The sum of two numbers is one number, here as there: these have a micro-batch a rank, and the same bits.
CODED = ("8bit, full rank", "in parts")
IN_BACKWARD = ("delayed", "two-pass", "first-micro-batch", "sampled", "full")
WITH_EXPERTS = ("delayed", "two-pass", "first-micro-batch", "summed", "fira", "full")
EXPERT_OF = (0, 0, 0, 1)  # micro-batch → expert: the second is the second rank's alone, the third nobody's


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.norm = nn.Embedding(50, 64), nn.LayerNorm(64)
        self.a, self.b = nn.Linear(64, 80, bias=False), nn.Linear(80, 64, bias=False)
        self.head = nn.Linear(64, 50, bias=False)
        self.experts = nn.ModuleList()

    def forward(self, ids: Tensor, number: int) -> Tensor:
        x = self.b(torch.relu(self.a(self.embedding(ids))))
        if self.experts:
            x = x + self.experts[EXPERT_OF[number]](x)
        return self.head(self.norm(x))  # type: ignore[no-any-return]


def run(method: str, ranks: Any, in_backward: bool = False, experts: int = 0) -> dict[str, Any]:
    """Norms, weights, and the bytes sent and predicted of each step."""
    torch.manual_seed(0)
    net, settings = Net(), dict(METHODS[method])
    net.experts.extend(nn.Linear(64, 64, bias=False) for _ in range(experts))
    groups = (
        adamw_groups(net.named_parameters(), 0.0)
        if method == "full"
        else galore_groups(
            net,
            settings.pop("rank", 4),
            targets=("a", "b", *(["experts"] if experts else [])),
            inner=settings.pop("inner", "adamw"),
        )
    )
    micro_batches = 2 if method in CODED else MICRO_BATCHES
    # eps: without it Adam takes a rounding error in a gradient of nearly zero for a whole step
    common = {"lr": 1e-2, "eps": 1e-5, "update_proj_gap": GAP, "max_grad_norm": 0.5, "accumulation": micro_batches}
    optimizer = GaLoreAdamW(groups, ranks=ranks, **common, **settings)  # type: ignore[arg-type]
    if in_backward:
        project_in_backward(net, optimizer)
    found: dict[str, Any] = {"norms": [], "skipped": [], "sent": [], "predicted": [], "in the backward": []}
    for step in range(STEPS):
        before, predicted = Counter(ranks.sent) if ranks else Counter(), traffic(optimizer, optimizer.clock)
        numbers = range(micro_batches)
        if ranks:
            numbers = numbers[ranks.rank * micro_batches // ranks.size : (ranks.rank + 1) * micro_batches // ranks.size]
        if optimizer.wants_sketch_pass:
            with optimizer.sketching():
                first = 1 if ranks and ranks.rank == 0 else 0
                for number in numbers[:first] if optimizer.sketches_first else numbers:
                    loss(net, step, number).backward()  # type: ignore[no-untyped-call]
        for number in numbers:
            found_loss = loss(net, step, number)
            if number == numbers[-1]:
                optimizer.expect_last()
            found_loss.backward()  # type: ignore[no-untyped-call]
        if ranks:
            found["in the backward"].append(sum(Counter(ranks.sent).values()) - before.total())
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


def loss(net: Net, step: int, number: int) -> Tensor:
    draw = torch.Generator().manual_seed(1000 * step + number)
    ids, labels = (torch.randint(0, 50, (4, 16), generator=draw) for _ in range(2))
    found = nn.functional.cross_entropy(net(ids, number).view(-1, 50), labels.view(-1)) / MICRO_BATCHES
    return found * (torch.nan if (step, number) == (POISONED, 1) else 1.0)


def every_method(ranks: Any) -> dict[str, Any]:
    hooked = {method: run(method, ranks) for method in METHODS}
    backward = {f"{method}, in the backward": run(method, ranks, in_backward=True) for method in IN_BACKWARD}
    return hooked | backward | {f"{method}, experts": run(method, ranks, experts=3) for method in WITH_EXPERTS}


if __name__ == "__main__":
    torch.set_num_threads(1)
    group = join("cpu")
    assert group is not None
    torch.save(every_method(group), f"{sys.argv[1]}.{group.rank}")
    leave()
    os._exit(0)  # no clean-up of threads that a test would wait for
