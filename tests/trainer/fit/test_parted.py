"""A trace in parts: what shrinks, what is gathered beside it and when, against what torch's allocator counts."""

import sys
from pathlib import Path

import pytest
from torch import nn

from galore.trainer.fit.parted import Unit, in_parts, units_of
from galore.trainer.memory.trace.trace import Allocation, Trace
from galore.trainer.optim import GaLoreAdamW, galore_groups
from galore.trainer.parallel.partedtraffic import units

BENCH = str(Path(__file__).parents[3] / "bench")


def born(trace: Trace, nbytes: int, category: str, module: str = "") -> int:
    return trace.born(Allocation(nbytes, nbytes, category, module, "mm", (nbytes,), "float32", len(trace.events)))


def traced() -> Trace:
    """Two blocks; what is outside has a gradient of 300, each block one of 200, and takes one of 100."""
    trace = Trace(refreshes=0.5)
    trace.mark("model")
    born(trace, 1000, "weights")
    trace.mark("first step: forward")
    for block in ("layers.1", "layers.10"):
        born(trace, 7, "activations", f"{block}.mlp")
    head = born(trace, 300, "gradients")
    trace.mark("first step: backward")
    sums = [head]
    for block in ("layers.10", "layers.1"):
        trace.died(born(trace, 100, "gradients", f"{block}.q"))
        sums.append(born(trace, 200, "gradients", block))
    trace.mark("first step: update")
    born(trace, 400, "optimizer_states")
    for each in sums:
        trace.died(each)
    return trace


OF_BLOCK = {"scattered": 200, "gradients": frozenset({((200,), "float32"), ((100,), "float32")})}
UNITS = [
    Unit("layers.1", 40, 8, **OF_BLOCK, taken=frozenset({("layers.1.q", (100,))})),
    Unit("layers.10", 40, 8, **OF_BLOCK, taken=frozenset({("layers.10.q", (100,))})),
    Unit("", 60, 0, 300, frozenset({((300,), "float32")})),
]


def test_parts_shrink_and_what_is_gathered_comes_and_goes_beside_them() -> None:
    found = in_parts(traced(), 4, UNITS)
    by = [found.by_category(at) for at in range(len(found.events))]
    most = {stage: {} for _, stage in found.marks}
    for at, each in enumerate(by):
        stage = found.mark_at(at)
        for category, nbytes in each.items():
            most[stage][category] = max(nbytes, most[stage].get(category, 0))
    assert by[-1] == {"weights": 250, "optimizer_states": 100, "activations": 14}
    forward, backward, update = list(most.values())[1:]
    # buffer and weights, outside of blocks and of one, and what of it is turned
    assert forward["temporaries"] == 60 + 60 + 40 + 40 + 8
    # one block's gradients are whole at once, beside the head's: the other's sum is a part by then
    assert backward["gradients"] == 300 + 200 + 200 // 4
    # what is scattered waits for the end of the next block
    assert backward["temporaries"] == 60 + 200 + 40 + 40 + 8
    assert update["gradients"] == (300 + 200 + 200) // 4
    assert [what for _, what in found.marks] == [what for _, what in traced().marks]
    assert found.refreshes == 0.5, "of its time, as its operations are"
    assert all(each.died is None or each.died > each.born for each in found.allocations)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(10, 8), nn.Linear(8, 10)


def test_a_unit_knows_what_is_turned_and_what_is_taken_of_it() -> None:
    model = Model()
    optimizer = GaLoreAdamW(galore_groups(model, 2, targets=("head",)), lr=1e-2)
    (outside,) = units_of(model, optimizer, units(model, [], optimizer), 4)
    table, bias = 4 * 3 * 8 * 4, 4 * 3 * 4
    # rows go round in threes, the last process has one; the head is tall, and cut along its rows
    assert (outside.path, outside.nbytes, outside.turned) == ("", 2 * table + bias, 0)
    assert outside.scattered == table + bias
    assert outside.gradients == {((10, 8), "float32"), ((10,), "float32")}
    assert outside.taken == {("head", (10, 8))}


TINY = [
    "model.hidden_size=32", "model.intermediate_size=48", "model.num_hidden_layers=2", "model.num_attention_heads=4",
    "model.dtype=float32", "model.vocab_size=300", "data.max_length=16", "optim.rank=8", "train.global_batch_size=8",
    "train.micro_batch_size=1", "train.device=cpu", "optim.update_proj_gap=2", "parallel.mode=fsdp",
]  # fmt: skip


@pytest.mark.parametrize(
    "more",
    [
        [],
        ["optim.method=full"],
        ["optim.method=lora", "optim.scale=0.25"],
        ["train.gradient_checkpointing=true"],
    ],
)
def test_a_ranks_peak_is_what_the_allocator_counts(more: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, BENCH])
    from ranks.memory import measured, predicted

    foreseen, counted = (each([*TINY, *more], 4) for each in (predicted, measured))
    assert foreseen["peak"] == pytest.approx(counted["peak"], rel=0.02)
    assert foreseen["weights"] == pytest.approx(counted["weights"], rel=0.01)
