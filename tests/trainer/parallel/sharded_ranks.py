"""A small network trained in shards by the ranks that the environment names, or whole in one process; then whole runs.

`python sharded_ranks.py FILE [JOBS]` leaves what each method came to in FILE.RANK, and what the runs of JOBS showed in
FILE.RANK.json, for a test that compares.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from galore.trainer.checkpoint.parts.files import Groups, Saved, part_name, write_own
from galore.trainer.checkpoint.parts.parted import own_states
from galore.trainer.checkpoint.state import capture
from galore.trainer.checkpoint.tensorfile import Parted, Stored
from galore.trainer.machine import hardware
from galore.trainer.optim import GaLoreAdamW, adamw_groups, galore_groups, hand_over_int8, project_in_backward, to_int8
from galore.trainer.parallel.entered import entered
from galore.trainer.parallel.group import Group, join, leave
from galore.trainer.parallel.partedtraffic import Parts, parted_traffic, units
from galore.trainer.parallel.sharding import hand_over, shard
from galore.trainer.record.shown import report

STEPS, MICRO_BATCHES, GAP, POISONED = 4, 4, 2, 2  # the last: a step whose second micro-batch is nan
RANK, VOCABULARY = 16, 51
METHODS: dict[str, dict[str, Any]] = {
    **{mode: {"refresh": mode} for mode in ("delayed", "summed", "first-micro-batch")},
    "two-pass": {"refresh": "two-pass", "stagger": False},
    "dct, rotate": {"proj_type": "dct", "transport": "rotate"},
    "8bit": {"state_dtype": "8bit"},
    "8bit, blocks of its own": {"state_dtype": "8bit"},
    "compensated": {"weight_rounding": "compensated"},
    "int8": {"weight_dtype": "int8", "weight_rounding": "nearest"},
    "int8, stochastic": {"weight_dtype": "int8", "refresh": "summed", "proj_type": "svd"},  # no other chance in it
    "full": {},
}
# one process rounds otherwise, or in other products
INEXACT = ("8bit, blocks of its own", "compensated", "int8, stochastic")
# Products with a part of a matrix are rounded otherwise than with the whole, and a code at the edge between two falls
# either way. How far a weight then comes to lie: Adam moves a column of it by about lr α = 2.5e-3 along a vector of the
# basis, whose elements are at most a half; one code more of a moment is up to a tenth of that (measured: 4e-5).
CODED = {"8bit": 2.5e-3 / 2 / 10}


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(64)
        self.a, self.b = nn.Linear(64, width, bias=False), nn.Linear(width, 64)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(torch.relu(self.a(self.norm(x))))  # type: ignore[no-any-return]


class Net(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding, self.blocks = nn.Embedding(VOCABULARY, 64), nn.ModuleList(Block(width) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(64), nn.Linear(64, VOCABULARY, bias=False)

    def logits(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))  # type: ignore[no-any-return]


def build(method: str, group: Group | None, seed: int = 0) -> tuple[Net, GaLoreAdamW, list[Parts]]:
    torch.manual_seed(0)
    net, settings = Net(320 if "of its own" in method else 512), dict(METHODS[method])
    net = net.bfloat16() if method == "compensated" else net
    if settings.pop("weight_dtype", None):
        for block in net.blocks:
            to_int8(block.a)
    common = {"lr": 1e-2, "eps": 1e-5, "update_proj_gap": GAP, "max_grad_norm": 0.5, "accumulation": MICRO_BATCHES}

    def made() -> GaLoreAdamW:
        if method == "full":
            groups = adamw_groups(net.named_parameters(), 0.0)
        else:
            groups = galore_groups(net, RANK, targets=("a", "b"))
        return GaLoreAdamW(groups, ranks=group, seed=seed, **common, **settings)  # type: ignore[arg-type]

    gathered = list[Parts]()
    if group is not None:
        plan = made()
        plan.release()
        gathered = units(net, list(net.blocks), plan)
        along = {id(slot.parameter): 0 if slot.transposed else 1 for slot in plan.projected}
        shard(net, list(net.blocks), group, torch.device("cpu"), torch.float32, along)
    optimizer = made()
    hand_over_int8(net, optimizer)
    project_in_backward(net, optimizer)
    if group is not None:
        hand_over(net, optimizer)
    return net, optimizer, gathered


def run(method: str, group: Group | None, seed: int = 0) -> dict[str, Any]:
    """Norms, losses, the bytes sent and predicted of each step, and at last all tensors as a checkpoint has them."""
    net, optimizer, gathered = build(method, group, seed)
    found: dict[str, Any] = {"norms": [], "skipped": [], "sent": [], "predicted": [], "losses": []}
    for step in range(STEPS):
        before = Counter(group.sent) if group else Counter[str]()
        if group:
            own = MICRO_BATCHES // group.size
            found["predicted"].append(parted_traffic(optimizer, gathered, group.size, own, optimizer.clock).total())
        if optimizer.wants_sketch_pass:
            with optimizer.sketching():
                accumulate(net, step, group)
        found["losses"].append(accumulate(net, step, group))
        optimizer.step()
        assert optimizer.report is not None
        found["norms"].append(optimizer.report.grad_norm)
        found["skipped"].append(optimizer.report.skipped)
        sent = Counter(group.sent if group else {}) - before
        found["sent"].append(sent.total() - sent["small"])
    groups, _ = capture(net, optimizer, {}, group)
    held = states_of(optimizer)
    saved = {name: {key: whole(value) for key, value in part.items()} for name, part in groups.items()}
    optimizer.load_state_tensors(own_states(optimizer, saved["optimizer"]), optimizer.clock)
    same = are_equal(states_of(optimizer), held)
    if group is not None:
        found |= by_files(groups, saved, optimizer, held, group, Path(f"{sys.argv[1]}.parts") / method)
    bytes_held = sum(each.nbytes for each in held.values())
    return found | {"saved": saved, "comes back": same, "bytes": bytes_held}


def by_files(
    groups: Groups,
    saved: dict[str, dict[str, Tensor]],
    optimizer: GaLoreAdamW,
    held: dict[str, Tensor],
    group: Group,
    folder: Path,
) -> dict[str, bool]:
    """Whether files of parts hold what was gathered, and give every rank back what it had, and nothing beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_own(folder, groups, group.rank, group.size)
    group.gathered(bytes(8))
    names = {name: [folder / part_name(name, rank, group.size) for rank in range(group.size)] for name in saved}
    read = {name: Saved(names[name]) for name in ("model", "optimizer")}
    same = all(torch.equal(read[n][key].flatten(), saved[n][key].flatten()) for n in read for key in saved[n])
    own = own_states(optimizer, read["optimizer"])
    cut = [each for name, each in own.items() if "exp_avg" in name]
    optimizer.load_state_tensors(own, optimizer.clock)
    again = are_equal(states_of(optimizer), held)
    lean = all(each.untyped_storage().nbytes() == each.nbytes for each in cut)
    return {"files are the whole": same, "files come back": again, "files are let go": lean}


def states_of(optimizer: GaLoreAdamW) -> dict[str, Tensor]:
    """A copy of all that this rank keeps."""
    slots = optimizer.slots.values()
    return {f"{slot.name}.{key}": value.clone() for slot in slots for key, value in slot.state.items()}


def are_equal(some: dict[str, Tensor], others: dict[str, Tensor]) -> bool:
    return some.keys() == others.keys() and all(torch.equal(some[name], others[name]) for name in some)


def whole(value: Stored) -> Tensor:
    return value.gather() if isinstance(value, Parted) else value


def accumulate(net: Net, step: int, group: Group | None) -> float:
    rank, size = (group.rank, group.size) if group else (0, 1)
    total = 0.0
    for number in range(rank * MICRO_BATCHES // size, (rank + 1) * MICRO_BATCHES // size):
        draw = torch.Generator().manual_seed(1000 * step + number)
        ids, labels = (torch.randint(0, VOCABULARY, (4, 16), generator=draw) for _ in range(2))

        def loss(ids: Tensor = ids, labels: Tensor = labels, number: int = number) -> Tensor:
            found = nn.functional.cross_entropy(net.logits(ids).view(-1, VOCABULARY), labels.view(-1)) / MICRO_BATCHES
            return found * (torch.nan if (step, number) == (POISONED, 1) else 1.0)

        lost = entered(net, loss)
        lost.backward()  # type: ignore[no-untyped-call]
        total += float(lost.detach())
    return total if group is None else group.total(total)


def every_method(group: Group | None) -> dict[str, Any]:
    return {method: run(method, group) for method in METHODS}


if __name__ == "__main__":
    torch.set_num_threads(1)
    report.draw = lambda history: {}  # type: ignore[assignment]
    hardware.measure_gemm = lambda *_, **__: 1e11  # type: ignore[assignment]
    joined = join("cpu")
    assert joined is not None
    torch.save(every_method(joined), f"{sys.argv[1]}.{joined.rank}")
    carry_out = runpy.run_path(str(Path(__file__).parents[1] / "two_runs.py"))["carry_out"]
    jobs = json.loads(Path(sys.argv[2]).read_text()) if len(sys.argv) > 2 else {}
    told = {name: carry_out(job, joined) for name, job in jobs.items()}
    Path(f"{sys.argv[1]}.{joined.rank}.json").write_text(json.dumps(told))
    leave()
    os._exit(0)  # no clean-up of threads that a test would wait for
