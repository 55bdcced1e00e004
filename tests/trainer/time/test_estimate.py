"""A step as the sum of its parts, in each of which the slowest counts."""

from __future__ import annotations

import pytest

from galore.trainer.memory.trace.trace import Call, Operation
from galore.trainer.time.estimate import Estimate, Part, Step, step_of


class Rates:
    """A second for each megabyte, half of one to ask for it."""

    beside = True

    def seconds(self, operation: Operation) -> float:
        return float(operation.call.arguments[1]) / 1e6

    def asked(self, operation: Operation) -> float:
        return 0.5


def done(what: str, megabytes: int, **counts: int) -> Operation:
    return Operation(
        Call(what, (0, megabytes * 10**6), ()), (), None, {("ordinary step", k): v for k, v in counts.items()}
    )


def test_micro_batches_are_scaled_and_the_update_is_not() -> None:
    step = step_of([done("lift", 2, forward=3, update=1)], "ordinary step", 3, 12, Rates())
    assert step.parts["forward"].seconds == 3 * 4 * 2
    assert step.parts["update"].seconds == 2
    assert step.seconds == 26
    assert step.by_kind() == {"kernel": 26}


def test_the_slowest_of_card_host_and_bus_counts() -> None:
    operations = [
        done("lift", 1, backward=1),
        done("copy to the host", 5, backward=1),
        done("copy from the host", 4, backward=1),
    ]
    part = step_of(operations, "ordinary step", 1, 1, Rates()).parts["backward"]
    assert part.claims() == {"card": 1, "host": 1.5, "bus": 5}  # both ways at the same time
    assert part.seconds == 5
    assert Step({"backward": part}).bound == "bus"


def step(seconds: float) -> Step:
    part = Part()
    part.add("pass", seconds)
    return Step({"forward": part})


def estimate(**changes: object) -> Estimate:
    given = {"ordinary": (step(4), step(2)), "refresh": (step(6), step(3)), "refreshes": 0.5, "tokens": 100}
    return Estimate(**{**given, "flops": 1000.0, "peak": 1000.0, "basis": "", **changes})  # type: ignore[arg-type]


def test_refreshes_are_spread_over_all_steps() -> None:
    found = estimate()
    assert found.seconds == (2.5, 5)
    assert found.tokens_per_second == (20, 40)
    assert found.mfu == pytest.approx((0.2, 0.4))
    assert estimate(refresh=None).seconds == (2, 4)
    assert estimate(peak=None).mfu is None


def test_several_processes_take_as_long_and_do_more() -> None:
    found = estimate().of(4, 4)
    assert found.seconds == estimate().seconds
    assert found.tokens_per_second == (80, 160)
    assert found.mfu == estimate().mfu
    uneven = estimate().of(4, 2.5)  # of five sequences one process has two
    assert uneven.tokens_per_second == (50, 100)
    assert uneven.mfu == pytest.approx((0.125, 0.25))


def test_as_json_goes_from_the_least_to_the_most() -> None:
    found = estimate().as_json()
    assert found["seconds_per_step"] == [2.5, 5]
    assert found["ordinary_step_seconds"] == [2, 4]
    assert found["refresh_step_seconds"] == [3, 6]
    assert found["parts"] == {"forward": [2, 4]}
    assert found["device_seconds_by_kind"] == {"pass": [2, 4]}
