"""A GPU that is none: tensors that say they are on a device, compute on the CPU, and mind what a CUDA device would mind.

Operands on two devices are a mistake, as is a generator of another device than what it fills; what would make the host
wait for the device is counted with the line that asked for it. The device takes the paths of CUDA. It is registered for
the whole process, and autograd's thread for it cannot be ended, so that a process of its own runs this and leaves by
`os._exit`.
"""

from __future__ import annotations

import functools
import os
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from galore.kernels import device as devices

NAME = "toygpu"
READ_BY_HOST = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_consecutive", "equal"}
READ_BY_CUSOLVER = {"_linalg_svd", "_linalg_eigh", "linalg_cholesky"}  # whether it converged
COPIES, INDEXED = {"_to_copy", "copy_"}, {"index", "index_put", "index_put_"}
_generator, _tensor, _device_type = torch.Generator, torch.tensor, devices.device_type


class Held(Tensor):
    """A tensor of the device; `inner` is where it really is."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Held:
        place = {"dtype": inner.dtype, "device": torch.device(NAME, 0), "storage_offset": inner.storage_offset()}
        held = Tensor._make_wrapper_subclass(cls, inner.size(), strides=inner.stride(), **place)  # type: ignore[attr-defined]
        held.inner = inner
        return held  # type: ignore[no-any-return]

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Held({self.inner!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, *_: Any) -> Any:
        raise AssertionError(f"{func} outside of the device's mode")

    def data_ptr(self) -> int:
        return self.inner.data_ptr()


class Generator(_generator):
    """A generator that knows for which device it is; torch wraps it anew, so that it is known by its address."""

    def __new__(cls, device: Any = "cpu") -> Generator:
        made = super().__new__(cls)
        made.of = torch.device(device)
        _kinds[made._cdata] = made.of.type
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.of


_kinds: dict[int, str] = {}


class ToyGpu(TorchDispatchMode):
    """Inside, everything runs on the device of its operands; `waits` counts (operation, file: function)."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = dict(kwargs or {}), func.overloadpacket.__name__
        tensors = _tensors((args, kwargs))
        held = [x for x in tensors if isinstance(x, Held)]
        onto = kwargs.get("device")
        if onto is not None:
            kwargs["device"] = "cpu"
        result_is_held = bool(held) if onto is None else torch.device(onto).type == NAME
        result_is_held &= name != "copy_" or isinstance(args[0], Held)
        self._mind(name, tensors, args, kwargs, result_is_held)
        inner_args, inner_kwargs = _changed((args, kwargs), Held, lambda x: x.inner)
        out = _computed(func, inner_args, inner_kwargs)
        owners = {id(x.inner): x for x in held}  # of what is changed in place
        return _changed(out, Tensor, lambda x: owners[id(x)] if id(x) in owners else Held(x)) if result_is_held else out

    def _mind(self, name: str, tensors: list[Tensor], args: Any, kwargs: dict[str, Any], result_is_held: bool) -> None:
        held = [x for x in tensors if isinstance(x, Held)]
        generator = kwargs.get("generator")
        if generator is not None and _kinds.get(generator._cdata, "cpu") != (NAME if result_is_held else "cpu"):
            _complain(f"{name} with a generator of another device")
        if name in COPIES:
            crosses = any(isinstance(x, Held) != result_is_held for x in tensors)
            asked = kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2])
            if crosses and not (asked and result_is_held):
                self.wait(name)
            return
        indices = _tensors(args[1]) if name in INDEXED else []
        if held and any(x.dtype == torch.bool or not isinstance(x, Held) for x in indices):
            self.wait(name)
        elsewhere = [x for x in tensors if not isinstance(x, Held) and not any(x is y for y in indices)]
        if held and any(x.ndim for x in elsewhere):
            _complain(f"{name} on two devices")
        if held and name in READ_BY_HOST | READ_BY_CUSOLVER:
            self.wait(name)

    def wait(self, name: str) -> None:
        """Count that the host waits for the device in the line that is being carried out."""
        self.waits[f"{name} in {_place()}"] += 1


def _tensors(tree: Any) -> list[Tensor]:
    """Those in lists, tuples and dictionaries; torch's own walk takes longer than the operations."""
    if isinstance(tree, Tensor):
        return [tree]
    branches = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, (list, tuple)) else ()
    return [x for branch in branches for x in _tensors(branch)]


def _changed(tree: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """The same lists, tuples and dictionaries, with `change` of what is of this kind."""
    if isinstance(tree, kind):
        return change(tree)
    if isinstance(tree, dict):
        return {key: _changed(value, kind, change) for key, value in tree.items()}
    return type(tree)([_changed(x, kind, change) for x in tree]) if isinstance(tree, (list, tuple)) else tree


def start() -> ToyGpu:
    """Register the device, and let the project's choices by device take CUDA's for it."""
    _setup_privateuseone_for_python_backend(NAME)
    mode = ToyGpu()
    torch.Generator = Generator  # type: ignore[misc]
    torch.tensor = functools.partial(_made, mode)  # type: ignore[assignment]
    for module in list(sys.modules.values()):
        if getattr(module, "device_type", None) is _device_type:
            module.device_type = _kind  # type: ignore[attr-defined]
    return mode


def moved(model: nn.Module) -> nn.Module:
    """`model`, its parameters and buffers on the device."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                held = Held(parameter.detach().clone())
                module._parameters[name] = nn.Parameter(held, requires_grad=parameter.requires_grad)
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else Held(buffer.detach().clone())
    return model


def _computed(func: Any, args: Any, kwargs: Any) -> Any:
    if func is torch.ops.aten.mm.dtype:  # which no CPU has
        return args[0].to(args[2]) @ args[1].to(args[2])
    return func(*args, **kwargs)


def _made(mode: ToyGpu, data: Any, *, device: Any = None, **options: Any) -> Tensor:
    """`torch.tensor`, which goes round all modes; onto a device it is a copy that is waited for."""
    if device is None or torch.device(device).type != NAME:
        return _tensor(data, device=device, **options)
    mode.wait("tensor")
    return Held(_tensor(data, **options))


def _kind(of: Any) -> str:
    kind = (of.device if isinstance(of, Tensor) else torch.device(of)).type
    return "cuda" if kind == NAME else _device_type(of)


def _complain(mistake: str) -> None:
    """End the process: autograd's thread cannot carry an error of a dispatch mode."""
    print(f"{mistake} in {_place()}", file=sys.stderr, flush=True)
    os._exit(1)


def _place() -> str:
    """The innermost line of the project's, wherever its files lie."""
    frames = [frame for frame, _ in traceback.walk_stack(None) if frame.f_globals["__name__"].startswith("galore.")]
    if not frames:
        return "outside"
    code = frames[0].f_code
    return f"{'/'.join(code.co_filename.rsplit('/', 2)[1:])}: {code.co_name}"
