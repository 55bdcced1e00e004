"""Follow every storage of a running training step, on `meta` or real tensors, from its birth to its death.

Storages are seen as the results of operations, below autograd; their death is that of the storage object. What they are
is known from where they were made (forward, backward, update; which module), or said afterwards by `label`.
"""

from __future__ import annotations

import functools
import weakref
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import _get_sequence_nr  # type: ignore[attr-defined]
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from galore.trainer.memory.trace.trace import Allocation, Trace

Hidden = Callable[[Any, tuple[Any, ...], dict[str, Any], Any], Sequence[tuple[int, int]]]


class Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A context in which every storage on `device_type` that an operation makes enters `trace`.

    Args:
        hidden: (lower, upper) bytes of scratch memory that an operation takes below the dispatcher, freed at its end.
        library: bytes that a library takes for good when a thread, the forward's or the backward's, first uses it.
    """

    def __init__(self, device_type: str, hidden: Hidden | None = None, library: int = 0) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.trace, self.device_type, self.hidden = Trace(), device_type, hidden
        self._library = dict.fromkeys(("forward", "backward"), library)
        self.stage = "forward"
        self.phase = ""
        self.begun: Callable[[str], object] = lambda phase: None  # told of each phase before it begins
        self._live: dict[int, int] = {}  # storage → number of its allocation
        self._watched: dict[int, weakref.ref[Any]] = {}
        self._modules: list[str] = []
        self._owners: dict[int, str] = {}  # parameter → the first module that has it
        self._made_by: list[tuple[int, str]] = []  # (autograd's sequence number, module entered or left)
        self._turn = 0  # allocations before this stage began
        self._hooks: list[Any] = []

    # -- where in the step

    def follow(self, model: nn.Module) -> None:
        """Know which of `model`'s modules is running, until `close`."""
        for name, module in model.named_modules():
            enter, leave = functools.partial(self._enter, name), self._leave
            for parameter in module.parameters(recurse=False):
                self._owners.setdefault(id(parameter), name)
            self._hooks += [
                module.register_forward_pre_hook(enter),
                module.register_forward_hook(leave, always_call=True),
            ]

    def close(self) -> None:
        """Let go of the model and of every storage."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._watched.clear()

    def mark(self, what: str) -> None:
        """What comes now is `what`, outside of any step."""
        self.trace.mark(what)

    def begin(self, phase: str) -> None:
        """What follows belongs to `phase`, such as "refresh step"."""
        self.begun(phase)
        self.phase = phase
        self._turn_to("forward")

    def _enter(self, name: str, *_: Any) -> None:
        if self.stage != "forward" and not _in_backward():
            self._turn_to("forward")
        self._modules.append(name)
        self._made_by.append((_get_sequence_nr(), name))

    def _leave(self, *_: Any) -> None:
        self._modules.pop()
        self._made_by.append((_get_sequence_nr(), self._modules[-1] if self._modules else ""))

    def _turn_to(self, stage: str) -> None:
        if self.stage == "forward" and stage == "backward":
            self._sort_out_temporaries()
        self.stage, self._turn = stage, len(self.trace.allocations)
        self.trace.mark(f"{self.phase}: {stage}")
        if library := self._library.pop(stage, 0):
            self._persistent(library, f"library workspace of the {stage}'s thread")

    def _sort_out_temporaries(self) -> None:
        """What the forward made and gave up again was no activation."""
        for each in self.trace.allocations[self._turn :]:
            if each.category == "activations" and each.died is not None:
                each.category = "temporaries"

    def _look_around(self) -> None:
        if _in_backward():
            if self.stage != "backward":
                self._turn_to("backward")
        elif self.stage == "backward":
            self._turn_to("update")

    def _module(self) -> str:
        """The innermost module that runs, or whose backward runs; of the loss there is none."""
        if self._modules or self.stage != "backward":
            return self._modules[-1] if self._modules else ""
        node = torch._C._current_autograd_node()
        if hasattr(node, "variable"):  # the end of a parameter's gradient, with what hooks make of it
            return self._owners.get(id(node.variable), "")
        at = bisect_right(self._made_by, node._sequence_nr(), key=lambda entry: entry[0]) if node is not None else 0
        return self._made_by[at - 1][1] if 0 < at <= len(self._made_by) else ""

    def _category(self) -> str:
        if self.stage == "forward":
            return "activations" if self._modules else "logits_and_loss"
        return "recompute" if self._modules else "temporaries"

    # -- births and deaths

    def label(self, category: str, tensors: Iterable[Tensor]) -> None:
        """Say what the storages of `tensors` are, whenever they were born."""
        for tensor in tensors:
            index = self._see(tensor, category)
            if index is not None:
                self.trace.allocations[index].category = category

    def _persistent(self, nbytes: int, op: str) -> None:
        self.trace.born(Allocation(nbytes, nbytes, "workspaces", "", op, (nbytes,), "uint8", len(self.trace.events)))

    def _see(self, tensor: Tensor, op: str) -> int | None:
        if tensor.device.type != self.device_type:
            return None
        storage = tensor.untyped_storage()
        key = storage._cdata
        known = self._live.get(key)
        if known is not None:
            return known
        nbytes = storage.nbytes()
        if nbytes == 0:
            return None
        dtype = str(tensor.dtype).removeprefix("torch.")
        index = self.trace.born(
            Allocation(
                nbytes, nbytes, self._category(), self._module(), op, tuple(tensor.shape), dtype, len(self.trace.events)
            )
        )
        self._live[key] = index
        self._watched[index] = weakref.ref(storage, functools.partial(self._gone, key, index))
        return index

    def _gone(self, key: int, index: int, _: Any) -> None:
        del self._live[key], self._watched[index]
        self.trace.died(index)

    def _scratch(self, bounds: Iterable[tuple[int, int]], op: str) -> None:
        """Storages that exist together during an operation."""
        numbers = [
            self.trace.born(
                Allocation(low, high, "workspaces", self._module(), op, (low,), "uint8", len(self.trace.events))
            )
            for low, high in bounds
        ]
        for number in reversed(numbers):
            self.trace.died(number)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled in here, and the guard would cost more than the rest of a traced operation

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._look_around()
        kwargs = kwargs or {}
        out = self.run(func, args, kwargs)
        op = func._overloadpacket.__name__
        if not isinstance(out, Tensor):
            for result in tree_leaves(out):
                if isinstance(result, Tensor):
                    self._see(result, op)
        elif not (args and out is args[0]):  # in place: it was seen before
            self._see(out, op)
        if self.hidden is not None and (bounds := self.hidden(func, args, kwargs, out)):
            self._scratch(bounds, op)
        return out

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Carry out one operation."""
        return func(*args, **kwargs)


def _in_backward() -> bool:
    return bool(torch._C._current_graph_task_id() != -1)
