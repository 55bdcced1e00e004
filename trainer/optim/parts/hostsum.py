"""Sums of whole gradients that wait in host memory between the micro-batches: on the device one at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from galore.kernels.host import Host, Waiting
from galore.trainer.optim.parts.storage import GradientSum

NewSum = Callable[[torch.dtype], GradientSum]


def sums_on(host: Host | None) -> NewSum:
    """How sums of whole gradients are made: on the device where there is no `host` for them."""
    return GradientSum if host is None else lambda dtype: HostSum(dtype, host)


class HostSum(GradientSum):
    """The same sum to the bit: it comes to the device whenever something is added, and goes back.

    Its place on the host, once taken, stays: locking pages costs more time than a step.
    """

    def __init__(self, dtype: torch.dtype, host: Host) -> None:
        self.host = host
        self._waiting: Waiting | None = None
        self._form: tuple[torch.Size, torch.dtype] | None = None  # of what waits
        super().__init__(dtype)

    @property
    def exists(self) -> bool:
        return self._form is not None

    @property
    def here(self) -> Tensor | None:
        return None

    @property
    def value(self) -> Tensor | None:
        """A copy on the device."""
        if self._form is None:
            return None
        assert self._waiting is not None
        shape, dtype = self._form
        value = torch.empty(shape, dtype=dtype, device=self.host.device)
        self.host.bring(value, self._waiting.view(0, dtype, shape))
        return value

    @value.setter
    def value(self, value: Tensor | None) -> None:
        self._form = None if value is None else (value.shape, value.dtype)
        if value is not None:
            if self._waiting is None:
                self._waiting = self.host.take(value.numel() * self.dtype.itemsize)
            self.host.park(self._waiting.view(0, value.dtype, value.shape), value.contiguous())
