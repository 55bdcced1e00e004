"""Host memory in words: what it is made of, and a verdict where there is a machine to judge."""

from __future__ import annotations

import pytest

from galore.cli.show.hostmemory import host_lines
from galore.trainer.common.format import GIB
from galore.trainer.fit.hostmemory import HostProfile


@pytest.mark.parametrize(
    ("ram", "said"),
    [
        (None, "33.0 GiB of memory at most: one with 48 GiB holds it; --ram judges another"),
        (64, "fits: 33.0 GiB of 64 GiB, 2.00 GiB of which others need (assumed)"),
        (34, "does not fit: 33.0 GiB of 34 GiB, 2.00 GiB of which others need (assumed)"),
    ],
)
def test_verdict_parts_phases_and_bus(ram: float | None, said: str) -> None:
    host = HostProfile(
        {"weights": 29 * GIB, "sums": 0}, {"start": 30 * GIB, "saving": GIB}, 3 * GIB, (5 * GIB, GIB), GIB
    )
    assert list(host_lines(host, ram)) == [
        ("host", said),
        ("pinned", "weights 29.0 GiB"),
        ("by phase", "start 33.0 GiB, saving 33.0 GiB; of it the process itself 3.00 GiB"),
        ("bus", "5.00 GiB to the device and 1.00 GiB back in a step, 1.00 GiB of weights in each micro-batch"),
    ]


def test_what_no_machine_holds_and_what_never_moves() -> None:
    lines = dict(host_lines(HostProfile({}, {"start": 9999 * GIB}, 0, (0, 0), 0), None))
    assert "no machine that is sold holds it" in lines["host"]
    assert lines.keys() == {"host", "by phase"}
