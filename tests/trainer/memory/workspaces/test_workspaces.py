"""Scratch sizes worked out by hand from PyTorch's source, on an RTX 4090 unless another GPU is named."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from galore.trainer.memory.workspaces.attention import kernels, key_splits
from galore.trainer.memory.workspaces.reduction import threads_per_sm
from galore.trainer.memory.workspaces.workspaces import FORMULAS, cuda_workspaces, library_workspaces

aten = torch.ops.aten
bf16, f32, f64, i64 = torch.bfloat16, torch.float32, torch.float64, torch.int64


def meta(*shape: int, dtype: torch.dtype = bf16) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def heads(b: int, h: int, tokens: int, size: int, dtype: torch.dtype = bf16) -> Tensor:
    """(b, h, tokens, size) as attention gets it from a projection."""
    return meta(b, tokens, h, size, dtype=dtype).transpose(1, 2)


def scratch(
    func: Any, *args: Any, out: Any = None, capability: tuple[int, int] = (8, 9), sms: int = 128
) -> list[tuple[int, int]]:
    return [tuple(each) for each in cuda_workspaces(func, args, {}, out, capability, sms)]


def run(func: Any, *args: Any) -> list[tuple[int, int]]:
    return scratch(func, *args, out=func(*args))


def same(*sizes: int) -> list[tuple[int, int]]:
    return [(size, size) for size in sizes]


# -- attention

FLASH = aten._scaled_dot_product_flash_attention.default
FLASH_BACKWARD = aten._scaled_dot_product_flash_attention_backward.default
EFFICIENT = aten._scaled_dot_product_efficient_attention.default
EFFICIENT_BACKWARD = aten._scaled_dot_product_efficient_attention_backward.default


def test_flash_splits_the_keys_of_few_heads() -> None:
    q = heads(1, 32, 256, 128)  # 32 heads × 4 query blocks on 256 half multiprocessors: 2 splits of 2 key blocks
    assert scratch(FLASH, q, q, q) == same(2 * 32 * 256 * 4, 2 * 32 * 256 * 128 * 4)
    assert scratch(FLASH, q, q, q, 0.1) == []


@pytest.mark.parametrize(
    ("size", "keys", "splits"), [(64, 256, 0), (64, 257, 2), (72, 128, 0), (72, 129, 2), (128, 128, 0), (136, 65, 2)]
)
def test_flash_splits_blocks_of_keys(size: int, keys: int, splits: int) -> None:
    found = scratch(FLASH, heads(1, 100, 64, size), heads(1, 100, keys, size), heads(1, 100, keys, size))
    assert (found[0][0] if found else 0) == splits * 100 * 64 * 4


def test_flash_splits_by_blocks_of_64_queries_and_two_per_multiprocessor() -> None:
    k = heads(1, 1, 4096, 128)
    assert scratch(FLASH, heads(1, 1, 204 * 64, 128), k, k) != []
    assert scratch(FLASH, heads(1, 1, 204 * 64 + 1, 128), k, k) == []


@pytest.mark.parametrize(("size", "padded"), [(72, 96), (128, 128), (136, 192)])
def test_flash_pads_heads(size: int, padded: int) -> None:
    q = heads(1, 32, 256, size)
    rows, accumulator = scratch(FLASH, q, q, q)
    assert accumulator[0] == rows[0] * padded


def test_flash_with_enough_heads_takes_nothing() -> None:
    q = heads(4, 32, 2048, 128)
    assert scratch(FLASH, q, q, q) == []


@pytest.mark.parametrize(
    ("work", "sms", "key_blocks", "splits"),
    [
        (205, 256, 64, 1),  # 80 % full
        (204, 256, 64, 5),  # 3.98 of 4 waves
        (64, 256, 16, 4),  # exactly one wave
        (1, 8, 5, 5),  # 4 splits leave blocks as long as 3 do: not eligible
        (1, 256, 1, 1),
        (1, 8, 64, 7),  # 7 of 8, and 8 of 8: 7 are enough
        (1, 40, 64, 32),  # 64 / 32 = 2 blocks each; 33 to 40 splits would have as many
        (1, 1000, 256, 128),  # never more
        (1, 1000, 129, 65),  # 129 would be eligible
    ],
)
def test_key_splits(work: int, sms: int, key_blocks: int, splits: int) -> None:
    assert key_splits(work, sms, key_blocks) == splits


def test_flash_backward() -> None:
    q, k = heads(2, 8, 200, 64), heads(2, 2, 200, 64)
    softmax_d = 2 * 8 * 256 * 4
    expanded = 2 * 8 * 200 * 64 * 2
    assert scratch(FLASH_BACKWARD, q, q, q, q, q, None) == same(softmax_d, softmax_d * 64)
    assert scratch(FLASH_BACKWARD, q, q, k, k, q, None) == same(softmax_d, softmax_d * 64, expanded, expanded)


def test_flash_backward_turns_a_gradient_of_another_layout() -> None:
    q = heads(2, 8, 200, 64)
    copy = 2 * 8 * 200 * 64 * 2
    assert scratch(FLASH_BACKWARD, q.contiguous(), q, q, q, q, None)[0] == (copy, copy)


def test_deterministic_flash_backward_accumulates_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    q = heads(2, 8, 200, 64)  # 16 heads on 128 multiprocessors: 8 parts
    assert scratch(FLASH_BACKWARD, q, q, q, q, q, None)[1][0] == 8 * 2 * 256 * 8 * 64 * 4


def test_efficient_forward_accumulates_wide_heads_in_float32() -> None:
    q = heads(2, 3, 50, 160)
    assert scratch(EFFICIENT, q, q, q) == same(2 * 3 * 50 * 160 * 4)
    assert scratch(EFFICIENT, q.float(), q.float(), q.float()) == []
    q = heads(2, 3, 50, 128)
    assert scratch(EFFICIENT, q, q, q) == []
    assert scratch(EFFICIENT, q, q, heads(2, 3, 50, 129)) == same(2 * 3 * 50 * 129 * 4)


TILE = (16 + 64 * 64 * 4) // 4  # floats: dQ of 64 queries and its lock


def test_efficient_backward_in_half_precision() -> None:
    q = heads(1, 4, 100, 64)
    assert scratch(EFFICIENT_BACKWARD, q, q, q, q) == same(4 * 100 * 4, 4 * 2 * TILE * 4)


def test_efficient_backward_in_float32_takes_delta_before_the_workspace() -> None:
    q = heads(1, 2, 64, 64, f32)
    product_and_sum = 2 * 64 * 64 * 4 + 2 * 64 * 4  # more than the workspace of 2 tiles
    assert scratch(EFFICIENT_BACKWARD, q, q, q, q) == same(2 * 64 * 4, product_and_sum)
    q = heads(1, 2, 64, 32, f32)
    assert scratch(EFFICIENT_BACKWARD, q, q, q, q) == same(2 * 64 * 4, 2 * TILE * 4)


def test_efficient_backward_in_float32_with_wide_heads_may_take_larger_blocks() -> None:
    q = heads(1, 1, 64, 65, f32)
    assert scratch(EFFICIENT_BACKWARD, q, q, q, q)[1] == (2 * TILE * 4, 2 * (16 + 128 * 64 * 4))


def test_efficient_backward_takes_values_of_another_size() -> None:
    q, v = heads(1, 200, 64, 64), heads(1, 200, 64, 160)
    low, _ = scratch(EFFICIENT_BACKWARD, v, q, q, v)[1]
    assert low == 200 * (TILE + 64 * 64 + 64 * 192) * 4


def test_efficient_backward_depends_on_the_cards_shared_memory() -> None:
    q = heads(1, 1, 64, 128)
    stored = (2 * TILE + 2 * 64 * 128) * 4  # 64×64 blocks: dK and dV in memory
    in_registers = 2 * (16 + 128 * 64 * 4)
    assert scratch(EFFICIENT_BACKWARD, q, q, q, q)[1] == (in_registers, stored)
    assert scratch(EFFICIENT_BACKWARD, q, q, q, q, capability=(8, 0))[1] == (65552, 65552)


def test_efficient_backward_splits_few_heads() -> None:
    stored = 64 * 192 + 64 * 192  # of one split: dK and dV, with heads padded to blocks of 64
    for h, splits in ((2, 32), (50, 4), (67, 2), (100, 2), (101, 1), (300, 1)):
        q = heads(1, h, 2048, 160)
        low, _ = scratch(EFFICIENT_BACKWARD, q, q, q, q)[1]
        assert low == h * (32 * 3 * TILE + splits * stored) * 4


@pytest.mark.parametrize(
    ("capability", "size", "chosen"),
    [
        ((8, 9), 64, [(64, 64, True)]),
        ((8, 9), 65, [(128, 64, True)]),
        ((8, 9), 97, [(64, 64, False), (128, 64, True)]),
        ((10, 0), 128, [(128, 128, True)]),
        ((10, 0), 129, [(128, 64, False), (64, 64, False)]),
        ((8, 6), 96, [(128, 64, True)]),
        ((9, 0), 96, [(128, 128, True)]),
        ((12, 0), 96, [(64, 64, False), (128, 64, True)]),
        ((8, 0), 256, [(128, 64, False), (64, 64, False)]),
    ],
)
def test_efficient_kernels(capability: tuple[int, int], size: int, chosen: list[tuple[int, int, bool]]) -> None:
    assert kernels(capability, True, size) == chosen


# -- embeddings, searches and products

EMBEDDING_BACKWARD = aten.embedding_dense_backward.default


def test_few_indices_are_not_sorted() -> None:
    gradient, indices = meta(3072, 64), meta(3072, dtype=i64)
    assert run(EMBEDDING_BACKWARD, gradient, indices, 1000, -1, False) == []
    assert run(EMBEDDING_BACKWARD, meta(64, 3072).t(), indices, 1000, -1, False) == same(64 * 3072 * 2)


def test_many_indices_are_sorted_and_summed_in_segments() -> None:
    found = run(EMBEDDING_BACKWARD, meta(4, 1000, 64), meta(4, 1000, dtype=i64), 1000, -1, False)
    partials = 400 + 1000
    tables = (32000, 32000, 32000, 8, 8000, 8000, 8, partials * 8)
    assert found == same(*tables, partials * 64 * 4)


def test_one_index_more_than_few_is_sorted() -> None:
    assert run(EMBEDDING_BACKWARD, meta(3073, 64), meta(3073, dtype=i64), 9000, -1, False)[:2] == same(
        3073 * 8, 3073 * 8
    )


def test_scaling_by_frequency_sorts_and_counts() -> None:
    found = run(EMBEDDING_BACKWARD, meta(100, 64, dtype=f32), meta(100, dtype=i64), 1000, -1, True)
    assert found == same(*[800] * 4, 8, 800, 800, 8, 110 * 8, 110 * 64 * 4)


def test_few_segments_may_be_summed_in_place() -> None:
    found = run(EMBEDDING_BACKWARD, meta(8000, 64), meta(8000, dtype=i64), 100, -1, False)
    partials = 800 + 100
    fused = partials * 8 + 100 * 64 * 4
    two_passes = 2 * 800 + 8 + partials * 8 + partials * 64 * 4
    assert found == [*same(64000, 64000, 64000, 8), (fused, two_passes)]


def test_in_float32_they_are_summed_where_they_belong() -> None:
    found = run(EMBEDDING_BACKWARD, meta(8000, 64, dtype=f32), meta(8000, dtype=i64), 100, -1, False)
    assert found[-1][0] == 900 * 8


@pytest.mark.parametrize(
    ("count", "rows", "width", "in_place"),
    [
        (20000, 511, 64, True),  # 2511 partial sums for 511 blocks: more than 4 each
        (20000, 512, 64, False),  # as many blocks as 4 on each of 128 multiprocessors
        (3100, 104, 64, False),  # 414 partial sums for 104 blocks
        (3100, 103, 64, True),
        (20000, 256, 1000, True),  # 1024 columns, rounded to warps: one block per segment
        (20000, 256, 2048, False),  # two blocks per segment
    ],
)
def test_when_segments_are_summed_in_place(count: int, rows: int, width: int, in_place: bool) -> None:
    found = run(EMBEDDING_BACKWARD, meta(count, width), meta(count, dtype=i64), rows, -1, False)
    assert (len(found) == 5) == in_place


def test_nonzero() -> None:
    assert scratch(aten.nonzero.default, meta(100, 64, dtype=torch.bool)) == [(4, 4), (1, 200 + 4096)]


def test_cumsum_casts() -> None:
    assert run(aten.cumsum.default, meta(10, 10, dtype=torch.bool), 1) == same(800)
    assert run(aten.cumsum.default, meta(10, 10), 1) == []


def test_products_copy_what_cublas_cannot_read() -> None:
    a, b = meta(6, 10), meta(10, 8)
    assert run(aten.mm.default, a, b) == []
    assert run(aten.mm.default, meta(10, 6).t(), b[:, :4]) == []
    assert run(aten.mm.default, meta(6, 20)[:, ::2], b) == same(6 * 10 * 2)
    assert run(aten.mm.default, meta(30).as_strided((6, 10), (4, 1)), b) == same(6 * 10 * 2)  # rows overlap
    assert run(aten.mm.default, meta(30).as_strided((6, 10), (1, 4)), b) == same(6 * 10 * 2)
    assert scratch(aten.mm.dtype, a, b, f32) == []
    assert run(aten.addmm.default, meta(4), a, meta(20, 8)[::2, ::2]) == same(10 * 4 * 2)
    assert run(aten.baddbmm.default, meta(3, 6, 8), meta(3, 6, 1).expand(3, 6, 10), meta(3, 10, 8)) == same(
        3 * 6 * 10 * 2
    )
    assert run(aten.addmm.default, meta(8), meta(6, 20)[:, ::2], b) == same(6 * 10 * 2)
    assert run(aten.bmm.default, meta(3, 6, 1).expand(3, 6, 10), meta(3, 10, 8)) == same(3 * 6 * 10 * 2)
    assert run(aten.bmm.default, meta(3, 6, 10), meta(3, 10, 1).expand(3, 10, 8)) == same(3 * 10 * 8 * 2)


# -- reductions


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


# -- factorizations


def test_qr() -> None:
    tall = meta(512, 128, dtype=f32)
    assert run(aten.linalg_qr.default, tall) == [*same(512, 4), (786432, 786432 + 512 * 128 * 4)]
    assert run(aten.linalg_qr.default, tall, "r")[0] == (512 * 128 * 4, 512 * 128 * 4)
    assert run(aten.linalg_qr.default, meta(128, 128, dtype=f32), "r")[0] == (512, 512)
    assert run(aten.linalg_qr.default, meta(3, 512, 128, dtype=f32))[:2] == same(3 * 512, 3 * 4)


def test_svd() -> None:
    tall = meta(512, 128, dtype=f32)
    work = 3 * 128 * 128 + 143 * 128 + 4160
    assert run(aten._linalg_svd.default, tall) == [*same(262144, 4), (work * 4, (work + 264 * 512) * 4)]
    assert run(aten._linalg_svd.default, tall, False, False)[1] == (640 * 128 * 4, 640 * 128 * 4)


@pytest.mark.parametrize(("rows", "reported"), [(20000, 3211456640), (20500, 4811456640)])
def test_svd_takes_at_least_what_was_reported(rows: int, reported: int) -> None:
    assert run(aten._linalg_svd.default, meta(20000, rows, dtype=f32))[-1][0] == reported


def test_eigh() -> None:
    small = meta(100, 100, dtype=f32)
    work = ((3 * 100 * 100 + 130 * 100) * 4, (4 * 100 * 100 + 256 * 100) * 4)
    assert run(aten._linalg_eigh.default, small) == [(4, 4), work]
    assert run(aten._linalg_eigh.default, small, "L", False) == [*same(40000, 4), work]
    low, high = run(aten._linalg_eigh.default, meta(10000, 10000, dtype=f64))[-1]
    assert low < 2410452488 < high  # reported


# -- what is not there


@pytest.mark.parametrize(
    ("func", "args"),
    [
        (aten.add.Tensor, (meta(4096, 4096), 1)),
        (aten._softmax.default, (meta(4096, 4096), -1, False)),
        (aten.cat.default, ([meta(4096, 4096)] * 2,)),
        (aten.index_select.default, (meta(9, 9), 0, meta(4, dtype=i64))),
    ],
)
def test_other_operations_take_nothing(func: Any, args: tuple[Any, ...]) -> None:
    assert run(func, *args) == []


def test_on_the_cpu_nothing_is_taken() -> None:
    assert run(aten.linalg_qr.default, torch.ones(8, 4)) == []


def test_every_formula_is_of_an_operation_that_exists() -> None:
    for name in FORMULAS:
        assert getattr(aten, name.removeprefix("aten::")).overloads()


# -- cuBLAS


@pytest.mark.parametrize(
    ("capability", "torch_version", "size"),
    [
        ((8, 9), "2.13.0+cu130", 8519680),
        ((9, 0), "2.6.0", 33554432),
        ((10, 0), "2.11.0", 8519680),
        ((10, 0), "2.12.1", 33554432),
        ((12, 0), "2.12.0a0+git123", 33554432),
        ((11, 0), "2.13.0", 8519680),
        ((11, 0), "2.14.0", 33554432),
    ],
)
def test_library_workspaces(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], torch_version: str, size: int
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch, "__version__", torch_version)
    assert library_workspaces(capability) == size


@pytest.mark.parametrize(
    ("setting", "size"),
    [
        (":4096:2:16:8", (2 * 4096 + 8 * 16) * 1024),
        (":16:8", 8 * 16 * 1024),
        (":0:0", 0),
        ("nonsense", 33554432),
    ],
)
def test_the_environment_sets_the_size_of_cublas_workspace(
    monkeypatch: pytest.MonkeyPatch, setting: str, size: int
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", setting)
    assert library_workspaces((9, 0)) == size
