"""The staging buffer of reductions whose few outputs are each computed by several thread blocks.

After PyTorch's aten/src/ATen/native/cuda/Reduce.cuh (`setReduceConfig`, `global_memory_size`, `gpu_reduce_kernel`) and
the order of dimensions in aten/src/ATen/TensorIterator.cpp. Inputs over 2 GiB are reduced in parts, which needs less.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from galore.trainer.memory.workspaces.scratch import FLOAT, HALF, Formula, Gpu, Workspace, at, blocks, exact

MOST_THREADS = 512
WARP = 32
MOST_PER_THREAD, LEAST_PER_THREAD = 256, 16
PAIR = 16  # bytes: a value and its index


class Axis(NamedTuple):
    """A dimension of the input as a reduction walks it; the stride in elements."""

    size: int
    stride: int


def reduction(dims_at: int) -> Formula:
    """Workspaces of an operation whose argument `dims_at` names the reduced dimensions."""

    def formula(gpu: Gpu, args: tuple[Any, ...], out: Any) -> list[Workspace]:
        source = args[0]
        accumulator = max(FLOAT, source.element_size(), out.element_size())
        return _cast(source, out) + staging(gpu, source, at(args, dims_at, None), accumulator)

    return formula


def extremum(dims_at: int, indexed: bool = False) -> Formula:
    """Workspaces of an operation that compares in the input's own type, or values with their `indexed` places."""

    def formula(gpu: Gpu, args: tuple[Any, ...], out: Any) -> list[Workspace]:
        source, dims = args[0], at(args, dims_at, None)
        if isinstance(dims, Tensor):
            return []  # of two tensors, elementwise
        return staging(gpu, source, dims, PAIR if indexed or isinstance(out, tuple) else source.element_size())

    return formula


def _cast(source: Tensor, result: Tensor) -> list[Workspace]:
    """The input in the result's type, as a whole, unless the kernel reads half precision and writes float32."""
    if source.dtype == result.dtype or (source.dtype in HALF and result.dtype == torch.float32):
        return []
    return exact(source.numel() * result.element_size())


def staging(gpu: Gpu, source: Tensor, dims: Any, accumulator: int) -> list[Workspace]:
    """Partial results and one counter per output block, where inputs are split between thread blocks."""
    reduced, kept = _axes(source, dims)
    inputs, outputs = (math.prod(axis.size for axis in axes) for axes in (reduced, kept))
    if inputs * outputs == 0:
        return []
    along = not kept or (bool(reduced) and reduced[0].stride < kept[0].stride)
    vector = 1 if along else _vector(kept[0], [*reduced, *kept[1:]])
    fast, slow = (inputs, outputs) if along else (outputs // vector, inputs)
    width, height = _threads(fast, slow, MOST_THREADS // vector)
    grid = outputs if along else blocks(outputs // vector, width)
    ways = _ways(gpu, inputs, width * height, width * height if along else height, grid)
    if ways == 1:
        return []
    return exact(accumulator * outputs * ways * (1 if along else width * vector), 4 * grid)


def _axes(source: Tensor, dims: Any) -> tuple[list[Axis], list[Axis]]:
    """Reduced dimensions by stride, kept ones as they lie in the result, the fastest first, runs of memory merged."""
    some = [dims] if isinstance(dims, int) else list(dims or range(source.dim()))
    names = {dim % source.dim() for dim in some} if source.dim() else set()
    sides: tuple[list[Axis], list[Axis]] = ([], [])
    for dim in reversed(range(source.dim())):
        if source.shape[dim] != 1:
            sides[dim not in names].append(Axis(source.shape[dim], source.stride(dim)))
    return _merged(sorted(sides[0], key=lambda axis: axis.stride)), _merged(sides[1])


def _merged(ordered: list[Axis]) -> list[Axis]:
    merged = ordered[:1]
    for before, after in pairwise(ordered):
        if before.size * before.stride == after.stride:
            merged[-1] = Axis(merged[-1].size * after.size, merged[-1].stride)
        else:
            merged.append(after)
    return merged


def _vector(fastest: Axis, others: list[Axis]) -> int:
    """Outputs that a thread loads at once: 4, 2 or 1 (get_output_vec_size)."""
    if fastest.stride != 1:
        return 1
    return math.gcd(4, fastest.size, *(axis.stride for axis in others))


def _threads(fast: int, slow: int, most: int) -> tuple[int, int]:
    """Width and height of a thread block (ReduceConfig::set_block_dimension)."""
    x, y = (min(1 << max(number, 1).bit_length() - 1, most) for number in (fast, slow))
    height = min(y, most // min(x, WARP))
    return min(x, most // height), height


def _ways(gpu: Gpu, inputs: int, threads: int, taken: int, grid: int) -> int:
    """Blocks per output, of `threads` each, `taken` of which share its inputs: as many as the GPU has room for."""
    each = blocks(inputs, taken)
    room = gpu.sms * (threads_per_sm(gpu.capability) // threads)
    if each < MOST_PER_THREAD or grid > room:
        return 1
    return max(min(blocks(room, grid), blocks(each, LEAST_PER_THREAD)), blocks(each, MOST_PER_THREAD))


def threads_per_sm(capability: tuple[int, int]) -> int:
    """CUDA C++ programming guide, technical specifications per compute capability."""
    if capability in {(7, 0), (8, 0)} or capability[0] in {9, 10}:
        return 2048
    return 1024 if capability < (8, 0) else 1536
