"""Traces of a step by hand: spans in spans, on threads, and kernels that belong to where they were launched."""

from __future__ import annotations

from typing import Any

import pytest

from galore.trainer.time.account import Account, host_seconds


def on_host(name: str, start: float, end: float, tid: int = 1, cat: str = "user_annotation", **args: Any) -> Any:
    return {"cat": cat, "name": name, "ts": start, "dur": end - start, "tid": tid, "args": args}


def part(name: str, start: float, end: float, tid: int = 1) -> Any:
    return on_host(f"galore.{name}", start, end, tid)


STEP = [
    part("step", 0, 100),
    part("data", 1, 3),
    part("forward", 10, 40),
    on_host("aten::mm", 12, 30, cat="cpu_op"),
    on_host("somebody else's", 10, 40),
]


def seconds(parts: Any) -> dict[str, float]:
    return {name: round(value * 1e6, 6) for name, value in parts.items()}


def test_on_a_cpu_a_part_within_another_is_not_of_it_and_all_make_up_the_step() -> None:
    events = [
        *STEP,
        part("backward", 40, 80),
        part("projection", 50, 60),
        part("refresh", 52, 55),
        part("update", 80, 95),
    ]
    account = Account.of(events[::-1])
    expected = {"data": 2, "forward": 30, "backward": 30, "projection": 7, "update": 15, "refresh": 3, "other": 13}
    assert seconds(account.parts) == expected
    assert sum(account.parts.values()) == pytest.approx(account.seconds)
    assert account.beside == {}


def launched(start: float, length: float, at: float, number: int, tid: int = 1, cat: str = "kernel") -> list[Any]:
    """A kernel, and the call that launched it."""
    call = on_host("cudaLaunchKernel", at, at + 1, tid, "cuda_runtime", correlation=number)
    return [call, on_host("gemm", start, start + length, 7, cat, correlation=number)]


def test_on_a_gpu_a_kernel_is_of_the_part_that_launched_it_in_whichever_thread() -> None:
    events = [
        *STEP,
        part("backward", 40, 80),
        part("projection", 50, 60, tid=2),
        part("update", 80, 95),
        *launched(15, 30, at=12, number=1),
        *launched(45, 20, at=45, number=2, tid=2),  # in autograd's thread, the main one in its backward
        *launched(65, 5, at=52, number=3, tid=2),
        *launched(66, 10, at=90, number=4, cat="gpu_memcpy"),  # at the same time, in another stream
        on_host("cudaStreamSynchronize", 81, 89, cat="cuda_runtime"),
        on_host("cudaMemcpyAsync", 89, 90, cat="cuda_runtime"),
    ]
    account = Account.of(events)
    busy = 30 + 20 + 5 + 6
    expected = {"forward": 30, "backward": 20, "projection": 5, "update": 10, "device idle": 100 - busy}
    assert seconds(account.parts) == expected
    assert seconds(account.beside) == {"data": 2, "host waits": 8}


def test_the_hosts_seconds_are_those_of_its_threads_whatever_the_device_did() -> None:
    events = [*STEP, part("backward", 40, 80), part("projection", 50, 60, tid=2), *launched(0, 99, at=41, number=1)]
    found = host_seconds(events[::-1])
    assert seconds(found) == {"data": 2, "forward": 30, "backward": 40, "projection": 10, "other": 28}
    assert host_seconds(launched(0, 99, at=41, number=1)) == {}


def test_several_steps_are_told_by_their_mean() -> None:
    one, other = Account.of(STEP), Account.of([part("step", 0, 300), part("forward", 0, 90)])
    both = Account.together([one, other])
    assert both.steps == 2
    rows = {name: (seconds * 1e6, share) for name, seconds, share in both.rows()}
    assert rows["forward"] == pytest.approx((60, 120 / 400))
    assert sum(share for _, share in rows.values()) == pytest.approx(1)
    assert Account(**both.as_json()) == both


def test_a_trace_without_a_step_is_refused() -> None:
    with pytest.raises(ValueError, match="no step"):
        Account.of([part("forward", 0, 1)])
