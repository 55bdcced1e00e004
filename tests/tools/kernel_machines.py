"""Machines that run the kernels: two without a GPU, and the card where there is one; and what tests of them share."""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="the kernels need the optional package triton")

import triton_interpreter
from ptx_emulator.machine import emulate
from torch import Tensor

from galore.kernels.ops import compressed
from galore.kernels.predict.compiled import Compiled, compile_launch
from galore.kernels.storage import fp8, moments
from galore.kernels.storage.blockwise import dequantize, quantize_
from galore.kernels.triton import adam, eight, fused, launch, lift, product, quantize, tile

ERRORS = "GALORE_KERNEL_ERRORS"  # names a file to which every comparison with float64 is appended, as JSON
TRITON = ("adam", "eight", "fused", "launch", "lift", "operand", "product", "quantize", "selftest", "tile")
MODULES = (*(f"triton.{name}" for name in TRITON), "predict.catalogue", "predict.measure")
KINDS = ("float32", "dynamic", "e4m3")
BLOCK = 256


class Interpreter:
    """Triton's interpreter: the kernels as they are written."""

    def __init__(self) -> None:
        self.kernels = _interpreted()

    @contextlib.contextmanager
    def ready(self) -> Iterator[None]:
        with triton_interpreter.interpreting():
            yield

    def run(self, plan: list[Any]) -> None:
        for each in plan:
            each.run()


class Emulator:
    """The PTX for sm_89: the kernels as they are compiled."""

    kernels = SimpleNamespace(
        adam=adam, eight=eight, fused=fused, launch=launch, lift=lift, product=product, quantize=quantize, tile=tile
    )

    @contextlib.contextmanager
    def ready(self) -> Iterator[None]:
        yield

    def run(self, plan: list[Any]) -> None:
        for each in plan:
            execute(compile_launch(each))


class Card:
    """The GPU that is here: operands are copied to it, results back. Without one, the interpreter stands in for it."""

    def __init__(self) -> None:
        here = torch.cuda.is_available()
        self.device = torch.device("cuda" if here else "cpu")
        self.kernels = Emulator.kernels if here else _interpreted()
        self.ready = contextlib.nullcontext if here else triton_interpreter.interpreting

    def run(self, plan: list[Any]) -> None:
        """Carry out launches on copies of their tensors' storages, shared as the originals are."""
        storages: dict[int, tuple[Tensor, Tensor]] = {}
        for each in plan:
            arguments = {name: self._there(value, storages) for name, value in each.arguments.items()}
            replace(each, arguments=arguments).run()
        for host, there in storages.values():
            host.copy_(there)

    def _there(self, value: Any, storages: dict[int, tuple[Tensor, Tensor]]) -> Any:
        if not isinstance(value, Tensor):
            return value
        storage = value.untyped_storage()
        if storage.data_ptr() not in storages:
            host = torch.empty(0, dtype=torch.uint8).set_(storage)
            storages[storage.data_ptr()] = host, host.to(self.device, copy=True)
        there = storages[storage.data_ptr()][1]
        size = len(there) // value.element_size() * value.element_size()
        return there[:size].view(value.dtype).as_strided(value.shape, value.stride(), value.storage_offset())


MACHINES = {"interpreter": Interpreter, "ptx": Emulator, "card": Card}


@functools.cache
def _interpreted() -> SimpleNamespace:
    return triton_interpreter.load(*MODULES)


def execute(compiled: Compiled, ptx: str | None = None) -> int:
    """Emulate a compiled launch, or other PTX in its place."""
    each = compiled.launch
    arguments = [each.arguments[name] for name in compiled.parameters]
    return emulate(ptx or compiled.ptx, arguments, each.grid, compiled.shared)


def relative_error(x: Tensor, exact: Tensor) -> float:
    """‖x - exact‖ / ‖exact‖ in float64."""
    return float((x.double() - exact.double()).norm() / exact.double().norm().clamp_min(1e-300))


def assert_as_near(mine: Tensor, other: Tensor, exact: Tensor, *, slack: float = 1.0, eps: float) -> None:
    """‖mine - exact‖ ≤ slack · ‖other - exact‖ + eps, both relative to ‖exact‖ in float64."""
    ours, theirs = relative_error(mine, exact), relative_error(other, exact)
    if ERRORS in os.environ:
        test = os.environ.get("PYTEST_CURRENT_TEST", "").partition(" ")[0]
        with Path(os.environ[ERRORS]).open("a") as out:
            out.write(json.dumps({"test": test, "ours": ours, "torch": theirs}) + "\n")
    assert ours <= theirs * slack + eps, (ours, theirs)


def basis(a: int, r: int, dtype: torch.dtype) -> Tensor:
    """A random orthonormal P (a, r)."""
    return torch.linalg.qr(torch.randn(a, r))[0].to(dtype)


def gradient(a: int, b: int, transposed: bool, dtype: torch.dtype) -> Tensor:
    """G oriented (a, b), as its layer stores it, with rows of very different size."""
    rows = torch.randn(a, b) * torch.randn(a, 1).exp() * 1e-2
    return rows.mT.contiguous().to(dtype).mT if transposed else rows.to(dtype)


def stored(kind: str, m: Tensor, v: Tensor) -> moments.Moments:
    """Moments in a storage."""
    if kind == "float32":
        return moments.Moments(m.clone(), v.clone())
    blocks = -(-m.numel() // BLOCK)
    absmax = torch.zeros(blocks), torch.zeros(blocks)
    if kind == "dynamic":
        codes = torch.zeros(m.shape, dtype=torch.uint8), torch.zeros(m.shape, dtype=torch.uint8)
        for place, (value, signed) in enumerate(((m, True), (v, False))):
            quantize_(codes[place].view(-1), absmax[place], value.flatten().clone(), signed)
    else:
        codes = torch.zeros(m.shape, dtype=torch.float8_e4m3fn), torch.zeros(m.shape, dtype=torch.float8_e4m3fn)
        for place, value in enumerate((m, v.sqrt())):
            fp8.quantize_(codes[place].view(-1), absmax[place], value.flatten())
    return moments.Moments(*codes, *absmax)


def read(kept: moments.Moments) -> tuple[Tensor, Tensor]:
    """m and v in fp32."""
    if kept.kind == "float32":
        return kept.m, kept.v
    assert kept.m_absmax is not None
    assert kept.v_absmax is not None
    if kept.kind == "dynamic":
        m = dequantize(kept.m.view(-1), kept.m_absmax, True)
        v = dequantize(kept.v.view(-1), kept.v_absmax, False)
    else:
        m = fp8.dequantize(kept.m.view(-1), kept.m_absmax)
        v = fp8.dequantize(kept.v.view(-1), kept.v_absmax).square()
    return m.view(kept.m.shape), v.view(kept.v.shape)


def copied(kept: moments.Moments) -> moments.Moments:
    return moments.Moments(*(None if x is None else x.clone() for x in kept))


def kept_matrix(p: Tensor, bits: int) -> compressed.Matrix:
    """P dense (0 bits) or in codes."""
    if bits == 0:
        return p
    parts = compressed.compress(p, 8 if bits == 8 else 4)
    return compressed.Compressed(parts["codes"], parts["absmax"], (p.shape[0], p.shape[1]))
