"""Scratch memory of embeddings, index searches and matrix products on CUDA."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from galore.trainer.memory.workspaces.scratch import (
    FLOAT,
    Formula,
    Gpu,
    Workspace,
    between,
    blocks,
    copied,
    exact,
    up,
)

FEW_INDICES = 3072
PER_PARTIAL = 10  # indices that one thread adds up
COUNTER = 4  # bytes


def embedding_backward(gpu: Gpu, args: tuple[Any, ...], out: Any) -> list[Workspace]:
    """More than 3072 indices are sorted and summed in segments (cuda/Embedding.cu, embedding_dense_backward_cuda).

    The sort's own temporaries are smaller than the sums that follow it, and given back before.
    """
    gradient, indices, rows, _, by_frequency = args
    count, size = indices.numel(), indices.element_size()
    copies = exact(copied(gradient), copied(indices))
    if count <= FEW_INDICES and not by_frequency:
        return copies
    sorted_and_original = (count * size,) * (3 if by_frequency else 2)
    return copies + exact(*sorted_and_original) + _segments(gpu, gradient, count, size, rows)


def _segments(gpu: Gpu, gradient: Tensor, count: int, size: int, rows: int) -> list[Workspace]:
    """cuda/EmbeddingBackwardKernel.cu, embedding_backward_cuda_kernel: partial sums in float32, per segment.

    Few segments are summed straight into a float32 copy of the weight's gradient by newer versions of torch.
    """
    width = gradient.shape[-1]
    segments = min(count, rows)
    partials = count // PER_PARTIAL + segments
    tables = [count * size, size]
    sums = partials * width * max(FLOAT, gradient.element_size())
    two_passes = [*tables, segments * size, segments * size, size, partials * size, sums]
    if not _fused(gpu, segments, partials, width):
        return exact(*two_passes)
    whole = rows * width * FLOAT if gradient.element_size() < FLOAT else 0
    fused = partials * size + whole
    two = sum(two_passes) - sum(tables)
    return exact(*tables) + between(min(fused, two), max(fused, two))


def _fused(gpu: Gpu, segments: int, partials: int, width: int) -> bool:
    warps = up(width, 32)
    grid = blocks(segments * warps, min(warps, 1024))
    return grid < 4 * gpu.sms and partials > 4 * grid


def nonzero(gpu: Gpu, args: tuple[Any, ...], out: Any) -> list[Workspace]:
    """A counter, and what cub needs to count and select, which is not published (cuda/Nonzero.cu)."""
    return exact(copied(args[0]), COUNTER) + between(1, args[0].numel() // 32 + 4096)


def cumulative(gpu: Gpu, args: tuple[Any, ...], out: Any) -> list[Workspace]:
    """The input in the result's type (ReduceOps.cpp, cumsum)."""
    return exact(args[0].numel() * out.element_size()) if args[0].dtype != out.dtype else []


def product(first: int) -> Formula:
    """Copies of operands that cuBLAS cannot read in place (cuda/Blas.cpp, prepare_matrix_for_cublas, or in batches)."""

    def formula(gpu: Gpu, args: tuple[Any, ...], out: Any) -> list[Workspace]:
        return exact(*(_unreadable(operand) for operand in args[first : first + 2]))

    return formula


def _unreadable(matrix: Tensor) -> int:
    """Bytes of the copy: none where rows or columns are contiguous and do not overlap."""
    (rows, columns), (down, across) = matrix.shape[-2:], matrix.stride()[-2:]
    readable = (across == 1 and down >= columns) or (down == 1 and across >= rows)
    return 0 if readable else matrix.numel() * matrix.element_size()
