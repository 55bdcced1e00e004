"""Launches that find their compiled kernel at once, where Triton binds, types and names every argument anew.

A compiled kernel is kept under what it was compiled for: device, options, constants, and of each argument what Triton
specializes on. That is, of a tensor the dtype and whether its pointer is a multiple of 16; of an int whether it is 1 or
a multiple of 16; of anything else its type. A launch of a kind that was launched before is handed to the launcher of
its kernel, which asks the driver for the same as through Triton. No tensor is kept.

The first launch of a kind goes Triton's way. So does whatever is not surely the same: a launch that somebody listens to
(profilers by their hooks, debugging), arguments of other types, versions of Triton whose launchers are not known here.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from operator import itemgetter
from typing import Any

import triton
from torch import Tensor

KNOWN = ("3.6.", "3.7.", "3.8.", "3.9.")  # versions of Triton whose launchers take what is handed to them here
if triton.__version__.startswith(KNOWN):  # in another one these may lie elsewhere
    from triton import knobs
    from triton.compiler import CompiledKernel
    from triton.runtime.driver import driver
    from triton.runtime.jit import JITFunction

ENVIRONMENT = "GALORE_LAUNCH"  # "triton": every launch goes Triton's way
ALIGNMENT = 16
SMALL = 1 << 31  # ints of which Triton makes 32-bit ones are below
_distrusted: list[str] = []


def launch(
    kernel: Any,
    grid: tuple[int, int],
    arguments: dict[str, Any],
    constants: dict[str, Any],
    options: tuple[int, int],
) -> None:
    """What `kernel[grid](**arguments, **constants, …)` launches, on the current stream of the current device.

    Args:
        options: warps of a program, stages of its pipeline.
    """
    given = {**arguments, **constants}
    forms = _forms(kernel)
    read = None if forms is None or _is_watched(kernel) else _read(forms.arguments(given))
    if forms is None or read is None:
        ordinary(kernel, grid, given, options)
        return
    kinds, passed = read
    fixed, device = forms.constants(given), driver.active.get_current_device()
    key = (device, options, fixed, kinds)
    found = forms.compiled.get(key)
    if found is None:
        made = ordinary(kernel, grid, given, options)
        if isinstance(made, CompiledKernel):
            forms.compiled[key] = made
        return
    stream = driver.active.get_current_stream(device)
    # nobody listens: no metadata, no hook on the way in, none on the way out
    found.run(*grid, 1, stream, found.function, found.packed_metadata, None, None, None, *passed, *fixed)


def ordinary(kernel: Any, grid: tuple[int, int], given: dict[str, Any], options: tuple[int, int]) -> Any:
    """The same by Triton's own way; returns what it launched."""
    return kernel[grid](**given, num_warps=options[0], num_stages=options[1])


class _Forms:
    """The compiled forms of a kernel whose constants stand behind its arguments."""

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel
        self.arguments = _picker([each.name for each in kernel.params if not each.is_constexpr])
        self.constants = _picker([each.name for each in kernel.params if each.is_constexpr])
        self.compiled: dict[tuple[Any, ...], Any] = {}


def _picker(names: list[str]) -> Callable[[dict[str, Any]], tuple[Any, ...]]:
    """The values under these names, in their order."""
    return itemgetter(*names) if len(names) > 1 else lambda given: tuple(given[name] for name in names)


_known: dict[int, _Forms | None] = {}  # by identity: a kernel's hash is that of its source text, behind a lock


def _forms(kernel: Any) -> _Forms | None:
    """The forms of a kernel; None of one that is to go Triton's way."""
    if id(kernel) not in _known:
        _known[id(kernel)] = _Forms(kernel) if not refusal() and _fits(kernel) else None
    return _known[id(kernel)]


def _fits(kernel: Any) -> bool:
    """Whether a launch needs to be told nothing but arguments, whose types are their own, and then constants."""
    if type(kernel) is not JITFunction or kernel.debug:
        return False
    constant = [each.is_constexpr for each in kernel.params]
    declared = any(each.annotation_type or each.has_default for each in kernel.params)
    return not declared and constant == sorted(constant)


def refusal() -> str:
    """Why every launch goes Triton's way, "" if most do not."""
    return _distrusted[0] if _distrusted else _unknown()


@functools.cache
def _unknown() -> str:
    if os.environ.get(ENVIRONMENT) == "triton":
        return f"{ENVIRONMENT}=triton"
    version = triton.__version__
    return "" if version.startswith(KNOWN) else f"the launchers of Triton {version} are not known here"


def distrust(reason: str) -> None:
    """Let every launch from now on go Triton's way."""
    _distrusted.append(reason)
    _known.clear()


def _is_watched(kernel: Any) -> bool:
    """Whether somebody listens to launches, or changes how kernels are compiled."""
    runtime = knobs.runtime
    return bool(
        _calls(runtime.launch_enter_hook)
        or _calls(runtime.launch_exit_hook)
        or kernel.pre_run_hooks
        or runtime.add_stages_inspection_hook
        or runtime.debug
        or knobs.compilation.instrumentation_mode
    )


def _calls(hook: Any) -> Any:
    """What a hook of Triton's calls: of a chain its members; None where there is nothing."""
    return getattr(hook, "calls", hook)


def _read(values: tuple[Any, ...]) -> tuple[tuple[Any, ...], list[Any]] | None:
    """What Triton specializes on of each argument, and what a launcher is passed for it.

    None of arguments that Triton may see otherwise, or that lie on several devices, which it will complain of.
    """
    kinds: list[Any] = []
    passed: list[Any] = []
    places = set()
    for value in values:
        kind = type(value)
        if kind is int:
            if not -SMALL <= value < SMALL:
                return None
            kinds.append(1 if value == 1 else 0 if value % ALIGNMENT else ALIGNMENT)
        elif isinstance(value, Tensor):
            places.add(value.get_device())
            dtype, value = value.dtype, value.data_ptr()
            kinds.append((dtype,) if value % ALIGNMENT else dtype)
        elif kind is float or value is None:
            kinds.append(kind)
        else:
            return None
        passed.append(value)
    return (tuple(kinds), passed) if len(places) == 1 else None
