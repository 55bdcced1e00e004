"""What kind of device a tensor is on; one on `meta`, which has no memory, stands for the kind that is simulated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

Notice = Callable[[str, int, int], None]  # what it is, its FLOPs, the bytes it moves
Times = Callable[[int], None]  # how often what follows is done
LEADING = 4  # rounds of a loop after which the next ones ask for what the last one did, and find what it found

_simulated: ContextVar[str] = ContextVar("simulated device", default="meta")
_noticed: ContextVar[Notice | None] = ContextVar("who is told of what no operation shows", default=None)
_times: ContextVar[Times | None] = ContextVar("who is told how often what follows is done", default=None)


def device_type(of: Tensor | torch.device | str) -> str:
    """ "cpu", "cuda", …; for `meta` the kind that stands behind it, "meta" where none does.

    Every choice of a path by device goes through here, so that a training step on `meta` tensors takes the paths of the
    device it is meant for.
    """
    device = of.device if isinstance(of, Tensor) else torch.device(of)
    return _simulated.get() if device.type == "meta" else device.type


@contextmanager
def meta_stands_for(kind: str, noticed: Notice | None = None, times: Times | None = None) -> Iterator[None]:
    """A context in which `meta` tensors take the paths of `kind` ("cpu" or "cuda").

    Args:
        noticed: told of what the device would do there and no operation of torch's shows.
        times: told for how many rounds of a loop one stands; without it every round is taken.
    """
    tokens = _simulated.set(kind), _noticed.set(noticed), _times.set(times)
    try:
        yield
    finally:
        for variable, token in zip((_simulated, _noticed, _times), tokens, strict=True):
            variable.reset(token)  # type: ignore[arg-type]


def notice(what: str, flops: int, nbytes: int) -> None:
    """Say what a device would do here: a kernel's launch, or a copy over the bus."""
    if (tell := _noticed.get()) is not None:
        tell(what, flops, nbytes)


def rounds(of: Tensor, starts: Sequence[int]) -> Iterator[int]:
    """`starts` of a loop over `of`. On `meta` one round stands for all those between the first ones and the last.

    The rounds have to ask for the same: the first ones, and the last, which may be shorter, apart.
    """
    tell = _times.get() if of.is_meta else None
    alike = len(starts) - LEADING - 1
    if tell is None or alike < 2:
        yield from starts
        return
    yield from starts[:LEADING]
    tell(alike)
    try:
        yield starts[LEADING]
    finally:
        tell(1)
    yield starts[-1]


def generator_for(device: torch.device, seed: int) -> torch.Generator:
    """A generator on the device whose numbers it is for; where that is no GPU, on the CPU, and numbers are copied.

    On a GPU they are a function of the seed and of the kind of GPU. Drawn by the CPU for it, the numbers of one step of
    a large model would take longer than the step.
    """
    own = device if device.type != "meta" and device_type(device) == "cuda" else "cpu"
    return torch.Generator(own).manual_seed(seed)


def product(x: Tensor, y: Tensor) -> Tensor:
    """x y of matrices of one dtype; of bf16 ones fp32 on CUDA, and bf16 on the CPU, whose GEMM has no wider output."""
    if device_type(x) == "cuda" and x.dtype == torch.bfloat16:
        return torch.mm(x, y, out_dtype=torch.float32)
    return x @ y
