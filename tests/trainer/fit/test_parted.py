"""A trace in parts: what shrinks, what is gathered beside it, and that every birth keeps its death."""

from torch import nn

from galore.trainer.fit.parted import Gathered, in_parts
from galore.trainer.memory.trace.trace import Allocation, Trace


def traced() -> Trace:
    trace = Trace(refreshes=0.5)

    def born(nbytes: int, category: str) -> int:
        return trace.born(Allocation(nbytes, nbytes, category, "", "mm", (nbytes,), "uint8", len(trace.events)))

    trace.mark("model")
    born(1000, "weights")
    trace.mark("first step: forward")
    activation = born(70, "activations")
    trace.mark("first step: backward")
    passing = born(300, "gradients")
    total = born(200, "gradients")
    trace.died(passing)
    trace.died(activation)
    trace.mark("first step: update")
    born(400, "optimizer_states")
    trace.died(total)
    return trace


def test_parts_shrink_and_what_is_gathered_stands_beside_them() -> None:
    found = in_parts(traced(), 4, Gathered(outside=10, block=3, gradients=50))
    by = [found.by_category(at) for at in range(len(found.events))]
    assert by[-1] == {"weights": 250, "temporaries": 16, "optimizer_states": 100}
    most = max(by, key=lambda each: sum(each.values()))
    assert most == {"weights": 250, "temporaries": 66, "activations": 70, "gradients": 300 + 50}
    assert [what for _, what in found.marks] == [what for _, what in traced().marks]
    assert found.requested()[-1] == 366
    assert found.refreshes == 0.5, "of its time, as its operations are"


def test_what_is_gathered_is_the_largest_block_and_all_that_is_in_none() -> None:
    blocks = [nn.Linear(4, 4, bias=False), nn.Linear(4, 8, bias=False)]
    model = nn.Sequential(nn.Embedding(10, 4), *blocks)
    trained = {id(model[0].weight)}
    assert Gathered.of(model, blocks, 4, trained) == Gathered(outside=160, block=128, gradients=40 * 8)
