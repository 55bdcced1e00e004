"""Scratch of reductions, worked out by hand from PyTorch's source."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from galore.trainer.memory.workspaces.reduction import threads_per_sm

from .operations import aten, bf16, f32, f64, meta, run, same, scratch


def test_sum_over_tokens_is_staged() -> None:
    """The gradient of a norm's weight: 32×4 threads of 4 outputs each, 16 blocks per output, 32 blocks across."""
    found = run(aten.sum.dim_IntList, meta(4, 256, 4096), [0, 1], True)
    assert found == same(4 * 4096 * 16 * 32 * 4, 4 * 32)


def test_the_stage_depends_on_the_card() -> None:
    source = meta(4, 256, 4096)
    args = (source, [0, 1])
    few = scratch(aten.sum.dim_IntList, *args, out=meta(4096), capability=(8, 6), sms=28)
    assert few == same(4 * 4096 * 11 * 32 * 4, 4 * 32)  # 28 × 12 blocks fit: 336 / 32, rounded up


def test_a_whole_matrix_is_reduced_by_blocks_of_512() -> None:
    matrix = meta(4096, 4096)
    ways = 128 * (1536 // 512)
    assert run(aten.linalg_vector_norm.default, matrix, 2) == same(4 * ways, 4)
    assert run(aten.sum.default, matrix) == same(4 * ways, 4)
    assert run(aten.mean.default, matrix.double()) == same(8 * ways, 4)
    assert run(aten.amax.default, matrix) == same(2 * ways, 4)
    assert run(aten.max.default, matrix) == same(2 * ways, 4)
    assert run(aten.argmax.default, matrix) == same(16 * ways, 4)


def test_transposed_matrices_are_reduced_as_they_lie() -> None:
    straight, turned = meta(4096, 256), meta(256, 4096).t()
    assert run(aten.sum.dim_IntList, turned, [0]) == []
    assert run(aten.sum.dim_IntList, straight, [0]) != []


def test_rows_that_no_vector_of_4_divides() -> None:
    """4098 columns: vectors of 2, so blocks of 32×8 threads; 6 of them fit a multiprocessor."""
    found = run(aten.sum.dim_IntList, meta(8192, 4098), [0])
    grid = -(-2049 // 32)
    ways = 12  # 768 blocks of room for 65
    assert found == same(4 * 4098 * ways * 32 * 2, 4 * grid)


@pytest.mark.parametrize(
    ("func", "before", "dims", "size"),
    [
        (aten.sum.dim_IntList, (), [0], 4),
        (aten.mean.dim, (), [0], 4),
        (aten.linalg_vector_norm.default, (2,), [0], 4),
        (aten.amax.default, (), [0], 2),
        (aten.amin.default, (), [0], 2),
        (aten.prod.dim_int, (), 0, 4),
        (aten.max.dim, (), 0, 16),
        (aten.min.dim, (), 0, 16),
        (aten.argmax.default, (), 0, 16),
        (aten.argmin.default, (), 0, 16),
        (aten.all.dim, (), 0, 2),
        (aten.any.dim, (), 0, 2),
    ],
)
def test_every_reduction_knows_its_dimensions(func: Any, before: tuple[Any, ...], dims: Any, size: int) -> None:
    source = meta(8192, 2048)
    last = 1 if dims == 0 else [1]
    assert run(func, source, *before, dims) == same(size * 2048 * 96 * 32 * 4, 4 * 16)  # 96 × 16 blocks fill the card
    assert run(func, source, *before, last) == []


PYTORCH = [  # capability, multiprocessors, type, shape, stride, reduced; stage, counters: the answers of PyTorch 2.13
    ((8, 0), 108, f32, (4096, 33, 100), (100, 409600, 1), [0, 1], 22118400, 8),
    ((8, 9), 128, f32, (255, 1024, 128), (131072, 128, 1), [1, 2], 2040, 1020),
    ((9, 0), 132, bf16, (2048, 100), (300, 3), [0], 0, 0),
    ((8, 9), 128, bf16, (11008, 24, 129), (3096, 129, 1), [0], 98279424, 100),
    ((8, 6), 28, bf16, (8192, 1), (1, 1), [1], 0, 0),
    ((9, 0), 132, f64, (32000, 127), (127, 1), [0], 4064000, 16),
    ((8, 9), 128, bf16, (8192, 2048), (1, 8192), [1], 100663296, 256),
    ((8, 0), 108, f32, (33, 4096, 100), (1, 33, 135168), [1, 2], 912384, 8),
    ((8, 0), 108, bf16, (129, 2, 4096, 5), (1, 129, 1290, 258), [2], 1816320, 164),
    ((12, 0), 170, f32, (128, 5, 2048, 7), (1, 1835008, 128, 262144), [2, 3], 0, 0),
]


@pytest.mark.parametrize(("capability", "sms", "dtype", "shape", "stride", "dims", "stage", "counters"), PYTORCH)
def test_answers_of_pytorchs_own_configuration(
    capability: tuple[int, int],
    sms: int,
    dtype: torch.dtype,
    shape: tuple[int, ...],
    stride: tuple[int, ...],
    dims: list[int],
    stage: int,
    counters: int,
) -> None:
    """`setReduceConfig` of Reduce.cuh, compiled for the CPU and asked about a GPU; 18 000 random cases agreed with it."""
    source = torch.empty_strided(shape, stride, dtype=dtype, device="meta")
    out = aten.sum.dim_IntList(source, dims)
    found = scratch(aten.sum.dim_IntList, source, dims, out=out, capability=capability, sms=sms)
    assert found == ([] if stage == 0 else same(stage, counters))


@pytest.mark.parametrize(
    ("func", "args"),
    [
        (aten.sum.dim_IntList, (meta(4, 256, 4096), [-1])),
        (aten.amax.default, (meta(1024, 32000, dtype=f32), [-1])),
        (aten.argmin.default, (meta(256, dtype=f32),)),
        (aten.all.default, (meta(2, 256, dtype=torch.bool),)),
        (aten.max.dim, (meta(32, 64), 1)),
        (aten.max.other, (meta(4096, 4096), meta(4096, 4096))),
        (aten.sum.default, (meta(),)),
        (aten.sum.default, (meta(0, 3),)),
    ],
)
def test_small_reductions_take_nothing(func: Any, args: tuple[Any, ...]) -> None:
    assert run(func, *args) == []


def test_counting_casts_the_mask() -> None:
    assert run(aten.sum.default, meta(1000, dtype=torch.bool)) == same(8000)
    assert scratch(aten.sum.default, meta(1000), out=meta(dtype=f32)) == []


@pytest.mark.parametrize(
    ("capability", "threads"),
    [((7, 5), 1024), ((8, 0), 2048), ((8, 6), 1536), ((8, 9), 1536), ((9, 0), 2048), ((10, 0), 2048), ((12, 0), 1536)],
)
def test_threads_per_multiprocessor(capability: tuple[int, int], threads: int) -> None:
    assert threads_per_sm(capability) == threads
