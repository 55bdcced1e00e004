"""What recomputed blocks keep, their inputs, moved to host memory in the forward and fetched back in the backward.

Copies run on a stream beside the computation. A tensor leaves while its own block computes, and comes back while the
block behind it is recomputed: at any time one is on its way and one in use, the others wait on the host. The last one
never has to come back: its backward begins before it is let go.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from galore.kernels.device import device_type, notice
from galore.kernels.host import FROM_HOST, TO_HOST


class Copies(Protocol):
    """Copies in the order they are asked for, each with what to `wait` for before its result or source is touched."""

    def send(self, tensor: Tensor) -> tuple[Any, Any]:
        """(what is on the host, what to wait for) of a copy that has begun."""

    def fetch(self, host: Any) -> tuple[Tensor, Any]:
        """(a new tensor on the device, what to wait for) of a copy that has begun."""

    def wait(self, done: Any) -> None:
        """Let the computation go on after that copy only."""


class CudaCopies:
    """Pinned host memory, and a stream of its own. All device memory belongs to the stream of the computation."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.stream = device, torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def send(self, tensor: Tensor) -> tuple[Tensor, torch.cuda.Event]:
        return self._copy(torch.empty_like(tensor, device="cpu", pin_memory=True), tensor)

    def fetch(self, host: Tensor) -> tuple[Tensor, torch.cuda.Event]:
        return self._copy(torch.empty_like(host, device=self.device), host)

    def wait(self, done: torch.cuda.Event) -> None:
        torch.cuda.current_stream(self.device).wait_event(done)

    def _copy(self, to: Tensor, source: Tensor) -> tuple[Tensor, torch.cuda.Event]:
        """A copy after all queued computation, which makes `source`, or may still use the memory of `to`."""
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            to.copy_(source, non_blocking=True)
        return to, self.stream.record_event()


class MetaCopies:
    """CUDA's memory, as a trace of `meta` tensors sees it: nothing of a tensor that left, all of one that is back."""

    def send(self, tensor: Tensor) -> tuple[tuple[torch.Size, torch.dtype], None]:
        notice(TO_HOST, 0, tensor.nbytes)
        return (tensor.shape, tensor.dtype), None

    def fetch(self, host: tuple[torch.Size, torch.dtype]) -> tuple[Tensor, None]:
        shape, dtype = host
        tensor = torch.empty(shape, dtype=dtype, device="meta")
        notice(FROM_HOST, 0, tensor.nbytes)
        return tensor, None

    def wait(self, done: None) -> None:
        """Nothing runs."""


class NoCopies:
    """The CPU's copies, none: its tensors are on the host as they are."""

    def send(self, tensor: Tensor) -> tuple[Tensor, None]:
        return tensor, None

    def fetch(self, host: Tensor) -> tuple[Tensor, None]:
        return host, None

    def wait(self, done: None) -> None:
        """Nothing was copied."""


def copies_for(device: torch.device) -> Copies:
    """How tensors leave `device`; `meta` does as what it stands for."""
    if device_type(device) != "cuda":
        return NoCopies()
    return MetaCopies() if device.type == "meta" else CudaCopies(device)


class Away:
    """A tensor that autograd keeps: on the device as long as `device` is set, on the host for good."""

    def __init__(self, tensor: Tensor, copies: Copies, earlier: Away | None) -> None:
        self.copies = copies
        self.device: Tensor | None = None
        self.earlier = weakref.ref(earlier) if earlier is not None else None  # whose turn in the backward is next
        self.host, self.done = copies.send(tensor)
        self.device = tensor

    def leave(self) -> None:
        """Give its device memory back, after the copy."""
        if self.device is not None:
            self.copies.wait(self.done)
            self.device = None

    def come(self) -> Tensor:
        """Begin to come back, if it is not there: memory whose content is to be waited for."""
        if self.device is None:
            self.device, self.done = self.copies.fetch(self.host)
        return self.device

    def take(self) -> Tensor:
        """The tensor, on the device, for one use."""
        tensor = self.come()
        self.copies.wait(self.done)
        self.device = None
        return tensor

    __del__ = leave  # a backward that fails: nobody else may get the memory while a copy runs


class OffloadingCheckpoint:
    """`torch.utils.checkpoint.checkpoint` with `settings`, whose inputs wait on the host.

    `fetched` is told of every tensor that comes back.
    """

    def __init__(self, copies: Copies, **settings: Any) -> None:
        self.copies, self.settings = copies, settings
        self.fetched: Callable[[Tensor], None] = lambda tensor: None
        self._last: Callable[[], Away | None] = lambda: None

    def __call__(self, function: Callable[..., Any], *args: Any) -> Any:
        with saved_tensors_hooks(self._pack, self._unpack):  # inside, checkpoint's own hooks see all but its inputs
            return checkpoint(function, *args, **self.settings)

    def _pack(self, tensor: Tensor) -> Away | Tensor:
        if not tensor.numel():  # torch below 2.12 keeps an empty one beside the inputs
            return tensor.detach()
        last = self._last()
        if last is not None:
            last.leave()  # its copy had the computation of a whole block to finish in
        away = Away(tensor.detach(), self.copies, last)
        self._last = weakref.ref(away)
        return away

    def _unpack(self, away: Away | Tensor) -> Tensor:
        if isinstance(away, Tensor):
            return away
        tensor = away.take()
        self.fetched(tensor)
        earlier = away.earlier() if away.earlier is not None else None
        if earlier is not None:
            self.fetched(earlier.come())
        return tensor
