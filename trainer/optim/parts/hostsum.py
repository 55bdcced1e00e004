"""Sums of whole gradients that wait in host memory between the micro-batches: on the device one at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from galore.kernels.host import Host
from galore.trainer.optim.parts.storage import GradientSum

NewSum = Callable[[torch.dtype], GradientSum]
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)  # of gradients


def sums_on(host: Host | None, elements: int) -> NewSum:
    """How sums of gradients of so many elements are made: on the device where there is no `host` for them."""
    return GradientSum if host is None else lambda dtype: HostSum(dtype, host, elements)


class HostSum(GradientSum):
    """The same sum to the bit: it comes to the device whenever something is added, and goes back.

    Its place on the host is taken at once and stays: locking pages costs more time than a step.
    """

    def __init__(self, dtype: torch.dtype, host: Host, elements: int) -> None:
        self.host = host
        self._waiting = host.take(elements * dtype.itemsize)
        narrow = (each for each in DTYPES if each.itemsize <= dtype.itemsize)
        self._as = {each: self._waiting.view(0, each, torch.Size((elements,))) for each in narrow}
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
        shape, dtype = self._form
        value = torch.empty(shape, dtype=dtype, device=self.host.device)
        self.host.bring(value.view(-1), self._as[dtype])
        return value

    @value.setter
    def value(self, value: Tensor | None) -> None:
        self._form = None if value is None else (value.shape, value.dtype)
        if value is not None:
            self.host.park(self._as[value.dtype], value.contiguous().view(-1))
