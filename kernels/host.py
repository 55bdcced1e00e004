"""Bytes that wait in host memory while a device computes: pinned where it is CUDA, copied on a stream beside it.

On the CPU the same copies are made between storages of its own, and on `meta`, which has no memory, they are counted.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from galore.kernels.device import notice, stands_for

TO_HOST, FROM_HOST = "copy to the host", "copy from the host"  # what is noticed of them on `meta`
ALIGNMENT = 256  # bytes, as CUDA gives them


class Waiting:
    """`nbytes` bytes of host memory. `bytes` is a flat uint8 tensor, None where none is there but counted."""

    def __init__(self, nbytes: int, flat: Tensor | None) -> None:
        self.nbytes, self.bytes = nbytes, flat

    def view(self, first: int, dtype: torch.dtype, shape: torch.Size) -> Tensor | None:
        """A tensor of its bytes from `first` on."""
        if self.bytes is None:
            return None
        return self.bytes[first : first + shape.numel() * dtype.itemsize].view(dtype).view(shape)


class Host:
    """The host memory of one device, here the CPU: what waits there, and what crossed the bus, in bytes.

    Copies are carried out in the order they are asked for. `most` is the peak of `held`.
    """

    pinned = False

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.held = self.most = self.fetched = self.sent = 0
        self._parked: tuple[Tensor, Any] | None = None

    def take(self, nbytes: int) -> Waiting:
        """Memory of `nbytes` bytes, as long as the result lives."""
        waiting = Waiting(nbytes, self._allocate(nbytes))
        self.held += nbytes
        self.most = max(self.most, self.held)
        finalizer = weakref.finalize(waiting, self._give_back, nbytes, waiting.bytes)
        finalizer.atexit = False
        return waiting

    def fetch(self, to: Tensor, host: Tensor | None) -> Any:
        """Begin to copy to the device; what to `wait` for before `to` is read."""
        self.fetched += to.nbytes * stands_for()
        return self._copy(to, host)

    def send(self, host: Tensor | None, source: Tensor) -> Any:
        """Begin to copy to the host; what to `wait` for before `source` is written."""
        self.sent += source.nbytes * stands_for()
        return self._copy(host, source)

    def park(self, host: Tensor | None, source: Tensor) -> None:
        """`send` a tensor that nobody else holds: its memory is free once the next one is parked."""
        before, self._parked = self._parked, (source, self.send(host, source))
        if before is not None:
            self.wait(before[1])

    def bring(self, to: Tensor, host: Tensor | None) -> None:
        """`fetch`, for the very next operation; by then what is parked has been sent, too."""
        self.wait(self.fetch(to, host))
        self._parked = None

    def wait(self, done: Any) -> None:
        """Let the device's computation go on after that copy only."""

    def settle(self) -> None:
        """Let the program go on after all copies, so that it may read and write what waits here."""

    def _allocate(self, nbytes: int) -> Tensor | None:
        return torch.empty(nbytes, dtype=torch.uint8, device="cpu")

    def _give_back(self, nbytes: int, flat: Tensor | None) -> None:
        self.held -= nbytes

    def _copy(self, to: Tensor | None, source: Tensor | None) -> Any:
        assert to is not None
        assert source is not None
        to.copy_(source)


class MetaHost(Host):
    """Nothing is there, all is counted."""

    def fetch(self, to: Tensor, host: Tensor | None) -> Any:
        notice(FROM_HOST, 0, to.nbytes)
        return super().fetch(to, host)

    def send(self, host: Tensor | None, source: Tensor) -> Any:
        notice(TO_HOST, 0, source.nbytes)
        return super().send(host, source)

    def _allocate(self, nbytes: int) -> None:
        return None

    def _copy(self, to: Tensor | None, source: Tensor | None) -> None:
        """Nothing runs."""


class CudaHost(Host):
    """Pages that the driver locks where they are: torch's own pinned memory takes the next power of two."""

    pinned = True

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def wait(self, done: torch.cuda.Event) -> None:
        torch.cuda.current_stream(self.device).wait_event(done)

    def settle(self) -> None:
        self.stream.synchronize()

    def _allocate(self, nbytes: int) -> Tensor:
        flat = torch.empty(nbytes, dtype=torch.uint8, device="cpu")
        torch.cuda.check_error(int(_runtime().cudaHostRegister(flat.data_ptr(), nbytes, 0)))
        return flat

    def _give_back(self, nbytes: int, flat: Tensor | None) -> None:
        super()._give_back(nbytes, flat)
        if flat is not None:
            self.settle()
            _runtime().cudaHostUnregister(flat.data_ptr())

    def _copy(self, to: Tensor | None, source: Tensor | None) -> torch.cuda.Event:
        """A copy after all queued computation, which makes `source`, or still reads `to`."""
        assert to is not None
        assert source is not None
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            to.copy_(source, non_blocking=True)
        done: torch.cuda.Event = self.stream.record_event()
        return done


def _runtime() -> Any:
    return torch.cuda.cudart()  # type: ignore[no-untyped-call]


KINDS: dict[str, Callable[[torch.device], Host]] = {"cuda": CudaHost, "meta": MetaHost}


def host_of(device: torch.device) -> Host:
    """The host memory of `device`."""
    return KINDS.get(device.type, Host)(device)


def aligned(nbytes: int) -> int:
    """Where the next tensor may begin."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
