"""The kernels as NumPy runs them: Triton's interpreter, with the numerics that it gets wrong put right.

As it comes, the interpreter multiplies the bit patterns of bf16 operands as integers, cuts bf16 off where hardware rounds
to nearest even, and does not saturate e4m3. Here products are formed in fp32 from the operands' values, and casts are
torch's, which round as `cvt.rn` does.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.jit import JITFunction

PARENT = "galore.kernels"
PACKAGES = ("triton", "predict")  # of it: where kernels are, and where their plans are kept
FLOATS = {
    tl.float64: torch.float64,
    tl.float32: torch.float32,
    tl.float16: torch.float16,
    tl.bfloat16: torch.bfloat16,
    tl.float8e4nv: torch.float8_e4m3fn,
}
LARGEST_E4M3 = 448.0


def load(*names: str) -> SimpleNamespace:
    """Fresh copies of the named modules, every kernel in them interpreted; the others stay as they are.

    Named as they lie in `galore.kernels`, and known afterwards by the last part of it. They run inside `interpreting()` only.
    """
    _mend()
    parent = importlib.import_module(PARENT)
    kept, held = (
        {name: sys.modules.pop(name) for name in loaded()},
        {name: getattr(parent, name, None) for name in PACKAGES},
    )
    with interpreting():
        modules = {name.rpartition(".")[2]: importlib.import_module(f"{PARENT}.{name}") for name in names}
    for name in loaded():
        del sys.modules[name]
    sys.modules.update(kept)
    for name, package in held.items():
        if package is not None:
            setattr(parent, name, package)
    return SimpleNamespace(**modules)


@contextlib.contextmanager
def installed(modules: SimpleNamespace) -> Iterator[None]:
    """Inside, importing a module that `load` gave finds the interpreted copy, and its kernels may run."""
    names = {module.__name__: module for module in vars(modules).values()}
    kept = {name: sys.modules.get(name) for name in names}
    sys.modules.update(names)
    try:
        with interpreting():
            yield
    finally:
        for name, module in kept.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def loaded() -> list[str]:
    """Modules of the packages that are imported."""
    return [name for name in sys.modules if any(f"{name}.".startswith(f"{PARENT}.{each}.") for each in PACKAGES)]


@contextlib.contextmanager
def interpreting() -> Iterator[None]:
    """Inside, `triton.jit` makes interpreted functions, and the language's own ones (`tl.cdiv`, `tl.max`) are too."""
    library = [module for name, module in sys.modules.items() if name.startswith("triton.language")]
    compiled = [
        (module, name, function)
        for module in library
        for name, function in vars(module).items()
        if isinstance(function, JITFunction)
    ]
    interpreted = {function: interpreter.InterpretedFunction(function.fn) for _, _, function in compiled}
    before, triton.knobs.runtime.interpret = triton.knobs.runtime.interpret, True
    for module, name, function in compiled:
        setattr(module, name, interpreted[function])
    try:
        yield
    finally:
        triton.knobs.runtime.interpret = before
        for module, name, function in compiled:
            setattr(module, name, function)


def _mend() -> None:
    interpreter._convert_float = _converted
    interpreter.InterpreterBuilder.create_dot = _dot  # type: ignore[method-assign]
    interpreter.InterpretedFunction.__call__ = _call  # type: ignore[method-assign]


def _call(self: Any, *args: Any, **kwargs: Any) -> Any:
    """A call of one kernel function by another, which by itself leaves the language patched for good."""
    scope = interpreter._patch_lang(self.fn)
    try:
        return self.rewrite()(*args, **kwargs)
    finally:
        scope.restore()


def _values(data: np.ndarray, dtype: Any) -> torch.Tensor:
    """The numbers behind an interpreter's array."""
    data, wanted = np.ascontiguousarray(data), FLOATS[dtype]
    if data.dtype.kind == "f":
        return torch.from_numpy(data)
    return torch.from_numpy(data.view(np.int16 if data.itemsize == 2 else np.uint8)).view(wanted)


def _array(values: torch.Tensor) -> np.ndarray:
    """As the interpreter keeps them: bits where NumPy has no such dtype."""
    if values.dtype == torch.bfloat16:
        return values.view(torch.int16).numpy().view(np.uint16)
    return (values.view(torch.uint8) if values.dtype == torch.float8_e4m3fn else values).numpy()


def _converted(data: np.ndarray, source: Any, target: Any, rounding: Any) -> np.ndarray:
    values = _values(data, source.scalar)
    if target.scalar == tl.float8e4nv:
        values = values.float().clamp(-LARGEST_E4M3, LARGEST_E4M3)
    return _array(values.to(FLOATS[target.scalar])).reshape(data.shape)


def _dot(self: Any, a: Any, b: Any, c: Any, precision: Any, imprecise: Any) -> Any:
    if a.dtype.scalar == tl.int8:  # sums in int32
        product = torch.from_numpy(a.data).int() @ torch.from_numpy(b.data).int()
    else:
        product = _values(a.data, a.dtype.scalar).float() @ _values(b.data, b.dtype.scalar).float()
    return interpreter.TensorHandle(product.numpy() + c.data, c.dtype.scalar)
