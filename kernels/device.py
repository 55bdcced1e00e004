"""What kind of device a tensor is on; one on `meta`, which has no memory, stands for the kind that is simulated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

Notice = Callable[[str, int, int], None]  # what it is, its FLOPs, the bytes it moves
LEADING = 4  # rounds of a loop after which the next ones ask for what the last one did, and find what it found

_simulated: ContextVar[str] = ContextVar("simulated device", default="meta")
_capability: ContextVar[tuple[int, int] | None] = ContextVar("compute capability of the simulated GPU", default=None)
_noticed: ContextVar[Notice | None] = ContextVar("who is told of what no operation shows", default=None)
_times: ContextVar[Callable[[], int]] = ContextVar("how often what is done on meta would be done", default=lambda: 1)


def device_type(of: Tensor | torch.device | str) -> str:
    """ "cpu", "cuda", …; for `meta` the kind that stands behind it, "meta" where none does.

    Every choice of a path by device goes through here, so that a training step on `meta` tensors takes the paths of the
    device it is meant for.
    """
    device = of.device if isinstance(of, Tensor) else torch.device(of) if isinstance(of, str) else of
    return _simulated.get() if device.type == "meta" else device.type


@contextmanager
def meta_stands_for(kind: str, noticed: Notice | None = None) -> Iterator[None]:
    """A context in which `meta` tensors take the paths of `kind` ("cpu" or "cuda").

    Args:
        noticed: told of what the device would do there and no operation of torch's shows.
    """
    tokens = _simulated.set(kind), _noticed.set(noticed)
    try:
        yield
    finally:
        _simulated.reset(tokens[0])
        _noticed.reset(tokens[1])


def capability(device: torch.device | str) -> tuple[int, int] | None:
    """Compute capability of a GPU; of `meta` that of the card it stands for, None where no card is named."""
    device = torch.device(device)
    return _capability.get() if device.type == "meta" else torch.cuda.get_device_capability(device)


@contextmanager
def capability_of_meta(simulated: tuple[int, int] | None) -> Iterator[None]:
    """A context in which `meta` stands for a card of that compute capability."""
    token = _capability.set(simulated)
    try:
        yield
    finally:
        _capability.reset(token)


def notice(what: str, flops: int, nbytes: int) -> None:
    """Say what a device would do here: a kernel's launch, or a copy over the bus."""
    if (tell := _noticed.get()) is not None:
        tell(what, flops, nbytes)


@contextmanager
def standing_for(times: Callable[[], int]) -> Iterator[None]:
    """A context in which what is done on `meta` stands for so many times the same, asked for whenever it is done."""
    around = _times.get()
    token = _times.set(lambda: around() * times())
    try:
        yield
    finally:
        _times.reset(token)


def stands_for() -> int:
    """How often the device would do what is done now on `meta`."""
    return _times.get()()


def rounds(of: Tensor, starts: Sequence[int], leading: int | None = None) -> Iterator[int]:
    """The `starts` of a loop over `of`. On `meta`, where nothing is computed, one round stands for those that would
    only ask for the same memory again: all but the `leading` ones (LEADING) and the last, which may be shorter.
    """
    leading = LEADING if leading is None else leading
    alike = len(starts) - leading - 1
    if not of.is_meta or alike < 2:
        yield from starts
        return
    yield from starts[:leading]
    with standing_for(lambda: alike):
        yield starts[leading]
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
