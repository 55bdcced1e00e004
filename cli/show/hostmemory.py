"""What a run needs of host memory, and what crosses the bus, in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from galore.trainer.common.format import size

if TYPE_CHECKING:
    from galore.trainer.fit.hostmemory import HostProfile


def host_lines(host: HostProfile, ram: float | None) -> Iterator[tuple[str, str]]:
    """(what, how much); a verdict where there is a machine to judge."""
    from galore.trainer.fit.hostmemory import SYSTEM

    if ram is not None:
        verdict = "fits" if host.fits(ram) else "does not fit"
        yield "host", f"{verdict}: {size(host.total)} of {ram:g} GiB, {size(SYSTEM)} of which others need (assumed)"
    else:
        machine = "no machine that is sold" if host.least_machine is None else f"one with {host.least_machine} GiB"
        yield "host", f"{size(host.total)} of memory at most: {machine} holds it; --ram judges another"
    pinned = [f"{name} {size(nbytes)}" for name, nbytes in host.pinned.items() if nbytes]
    if pinned:
        yield "pinned", ", ".join(pinned)
    phases = ", ".join(f"{name} {size(nbytes + host.process)}" for name, nbytes in host.phases.items())
    yield "by phase", f"{phases}; of it the process itself {size(host.process)}"
    if any(host.bus):
        there, back = (size(each) for each in host.bus)
        yield "bus", f"{there} to the device and {back} back in a step{_weights(host)}"


def _weights(host: HostProfile) -> str:
    return f", {size(host.micro_batch)} of weights in each micro-batch" if host.micro_batch else ""
