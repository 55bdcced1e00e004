"""Small hand-made runs: every number in them is known."""

import random

import pytest

from galore.trainer.machine.cards import Card
from galore.trainer.memory.categories import PASSING
from galore.trainer.memory.profile import Profile
from galore.trainer.memory.trace.trace import Allocation, Trace

MIB = 2**20


def born(trace, nbytes, category, module="", op="mm", shape=None, high=None):
    shape = (nbytes,) if shape is None else shape
    return trace.born(Allocation(nbytes, high or nbytes, category, module, op, shape, "uint8", len(trace.events)))


@pytest.fixture
def trace():
    """8 MiB of weights, one step that needs 6 MiB more at its peak, and an evaluation that needs 1 MiB more."""
    trace = Trace()
    trace.mark("model")
    for layer in range(2):
        born(trace, 4 * MIB, "weights", f"model.layers.{layer}.mlp", "weights", (2048, 2048))
    trace.mark("first step: forward")
    activations = [born(trace, 2 * MIB, "activations", f"model.layers.{layer}.mlp") for layer in range(2)]
    trace.mark("first step: backward")
    gradient = born(trace, 1 * MIB, "temporaries", "model.layers.1.mlp", "mm", high=2 * MIB)
    for number in (*reversed(activations), gradient):
        trace.died(number)
    trace.mark("evaluation: forward")
    trace.died(born(trace, 1 * MIB, "activations", "model.layers.0.mlp"))
    return trace


@pytest.fixture
def long_trace():
    """30,000 events of random sizes in all categories; one event in the midst stands out."""
    draw, trace, alive = random.Random(0), Trace(), []
    trace.mark("model")
    alive += [born(trace, draw.randrange(1, 9 * MIB), "weights") for _ in range(50)]
    for phase in ("first step: forward", "first step: backward", "ordinary step: forward", "ordinary step: update"):
        trace.mark(phase)
        for _ in range(3700):
            alive.append(born(trace, draw.randrange(1, 3 * MIB), draw.choice(PASSING), op=draw.choice("abc")))
            trace.died(alive.pop(draw.randrange(50, len(alive))))
        if phase == "first step: backward":
            trace.died(born(trace, 700 * MIB, "logits_and_loss", "head"))
    return trace


@pytest.fixture
def card():
    """256 MiB, of which the context takes 32 to 64."""

    def of(usable=256 * MIB):
        return Card("Test <GPU> & Co", "test", usable, usable + MIB, 32 * MIB, 64 * MIB, (8, 9), 16, "invented")

    return of


@pytest.fixture
def profile(trace, card):
    return Profile(trace, card(), expandable=False)
