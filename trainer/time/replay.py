"""Each distinct operation of a traced step carried out here by itself, on made-up numbers, and timed."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from galore.kernels.host import TO_HOST
from galore.trainer.memory.trace.trace import Call, Described, Operation
from galore.trainer.memory.workspaces.casts import cpu_workspaces
from galore.trainer.time.work import BUSES, NOTHING, work_of

aten = torch.ops.aten

TIMES, LONG = 3, 0.3  # repetitions, and the seconds of one from which it is timed once
MOST_COPIED = 64 << 20  # bytes of a copy that is timed
CORE_CACHE = 4 << 20  # bytes that drive a core's own cache out
OWN_PAGES = 32 << 20  # bytes from which glibc takes pages for one tensor, and gives them back with it
FRESH_BLOCKS, FRESH_BYTES = 4, 64 << 20  # that are filled to time pages
GIVEN_BACK = 2.5  # seconds after which a virtual machine has given free pages back to its host
LAYERS, WIDTH = 50, 8  # of the model that computes next to nothing
HOST = {aten._local_scalar_dense.default}


class Replayed:
    """Seconds of operations as they were timed on `device`; what was not is taken to cost nothing.

    A GPU is waited for after each operation, so that its host has no time of its own.

    Args:
        of: which of several repetitions counts: `min` where others work on the machine, too.
    """

    def __init__(self, device: torch.device, of: Callable[[list[float]], float] = statistics.median) -> None:
        self.device, self.of = device, of
        self.beside = device.type == "cuda"
        self._elsewhere = torch.zeros(CORE_CACHE // 4, dtype=torch.float32)
        self.around = around_an_operation(device)
        self.found: dict[Call, float] = {}
        self.left_out: list[Call] = []

    def time(self, operations: Iterable[Operation]) -> None:
        """Carry out each of `operations` that is not known yet, a few times; what cannot be is left out."""
        with torch.random.fork_rng(), torch.no_grad():
            for operation in operations:
                if operation.call not in self.found:
                    self.found[operation.call] = self._of(operation)

    def seconds(self, operation: Operation) -> float:
        return self.found.get(operation.call, 0.0) + self.around

    def asked(self, operation: Operation) -> float:
        return 0.0

    def _of(self, operation: Operation) -> float:
        call = operation.call
        if call.function in BUSES:
            return self._copied(call)
        if isinstance(call.function, str) or call.function in HOST:
            return 0.0
        if not call.arguments and not call.keywords:
            return 0.0  # a view
        if work_of(operation) is NOTHING and not operation.made:
            return 0.0
        try:
            return self._timed(call)
        except (RuntimeError, TypeError, IndexError, ValueError):  # numbers that this operation does not take
            self.left_out.append(call)
            return 0.0

    def _timed(self, call: Call) -> float:
        arguments, keywords = [self._real(each) for each in call.arguments], self._keywords(call)
        taken = self._repeated(call.function, arguments, keywords)
        if self.device.type == "cuda" or not (large := self._large(call, arguments, keywords)):
            return taken
        return taken + large * seconds_of_pages()

    def _large(self, call: Call, arguments: list[Any], keywords: dict[str, Any]) -> int:
        """Bytes of fresh tensors that have pages of their own: repetitions get them at once, a step after a while."""
        out = call.function(*arguments, **keywords)
        results = out if isinstance(out, (tuple, list)) else (out,)
        given = {each.data_ptr() for each in arguments if isinstance(each, Tensor)}
        fresh = [each.nbytes for each in results if isinstance(each, Tensor) and each.data_ptr() not in given]
        hidden = [low for low, _ in cpu_workspaces(call.function, tuple(arguments), keywords, out)]
        return sum(each for each in (*fresh, *hidden) if each >= OWN_PAGES)

    def _copied(self, call: Call) -> float:
        """A copy over the bus, or from one place of the host's memory to another; of a large one a part is timed."""
        nbytes = int(call.arguments[1])
        size = max(1, min(nbytes, MOST_COPIED))
        here = torch.zeros(size, dtype=torch.uint8, device=self.device)
        there = torch.zeros(size, dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        to, source = (there, here) if call.function == TO_HOST else (here, there)
        return self._repeated(to.copy_, [source], {}) * float(nbytes / size)

    def _repeated(self, function: Callable[..., Any], arguments: list[Any], keywords: dict[str, Any]) -> float:
        taken = []
        self._once(function, arguments, keywords)
        for _ in range(TIMES):
            taken.append(self._once(function, arguments, keywords))
            if taken[-1] > LONG:
                break
        return self.of(taken)

    def _once(self, function: Callable[..., Any], arguments: list[Any], keywords: dict[str, Any]) -> float:
        self._elsewhere.add_(1)  # in a step other tensors went through the core's cache since these were made
        start = time.perf_counter()
        function(*arguments, **keywords)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - start

    def _keywords(self, call: Call) -> dict[str, Any]:
        return {name: self._real(value) for name, value in call.keywords}

    def _real(self, described: Any) -> Any:
        """What `simulate` described: tensors of small numbers, indices that are 0."""
        if isinstance(described, Described):
            return self._tensor(described)
        if _is_value(described):
            value = described[1]
            return self.device if isinstance(value, torch.device) and value.type == "meta" else value
        return [self._real(each) for each in described]

    def _tensor(self, like: Described) -> Tensor:
        device = self.device if like.device == "meta" else torch.device("cpu")
        made = torch.empty_strided(like.shape, like.stride, dtype=like.dtype, device=device)
        if like.dtype.is_floating_point and like.dtype.itemsize > 1:
            if 0 in like.stride:  # several elements in one place
                return made.zero_()
            return made.normal_(std=0.02)
        return made.zero_()


class _Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """How many operations there were."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


@functools.cache
def seconds_of_pages() -> float:
    """Seconds more for each byte of a large tensor on pages that the system has to find than on those just freed."""

    def fill() -> float:
        start = time.perf_counter()
        held = [torch.empty(FRESH_BYTES, dtype=torch.uint8).zero_() for _ in range(FRESH_BLOCKS)]
        return (time.perf_counter() - start) / sum(each.nbytes for each in held)

    fill()
    at_once = min(fill() for _ in range(TIMES))
    time.sleep(GIVEN_BACK)
    return max(0.0, fill() - at_once)


def around_an_operation(device: torch.device) -> float:
    """Seconds that Python, modules and autograd take for each operation: of a model that computes next to nothing."""
    with torch.random.fork_rng():
        layers = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS))).to(device)
    x = torch.zeros(1, WIDTH, device=device)

    def step() -> float:
        start = time.perf_counter()
        layers(x).sum().backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    with torch.enable_grad():
        with _Counting() as counting:  # type: ignore[no-untyped-call]
            step()
        return min(step() for _ in range(TIMES)) / float(counting.count)


def _is_value(described: Any) -> bool:
    return isinstance(described, tuple) and len(described) == 2 and isinstance(described[0], type)
