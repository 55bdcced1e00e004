"""Scratch of attention, worked out by hand from PyTorch's source."""

from __future__ import annotations

import pytest
import torch

from galore.kernels.cuda import as_deterministic
from galore.trainer.memory.workspaces.attention import kernels, key_splits

from .operations import aten, f32, heads, meta, same, scratch

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


@pytest.mark.parametrize(("groups", "segments"), [(32, 1), (32, 5), (8, 5)])
def test_segments_take_128_rows_more_each(groups: int, segments: int) -> None:
    q, k, bounds = meta(1000, 32, 72), meta(1000, groups, 72), meta(segments + 1, dtype=torch.int32)
    lse, state = meta(32, 1000, dtype=f32), meta(2, dtype=torch.uint64)
    backward = torch.ops.torch_attn._varlen_attn_backward.default
    found = scratch(backward, q, q, k, k, q, lse, bounds, bounds, 1000, 1000, True, state)
    rows = 32 * (1000 + 128 * segments) * 4
    expanded = [1000 * 32 * 72 * 2] * 2 if groups != 32 else []
    assert found == same(rows, rows * 96, *expanded)
    with as_deterministic(True):  # 128 multiprocessors hold 4 blocks of 32 heads, or one of more
        assert (
            scratch(backward, q, q, k, k, q, lse, bounds, bounds, 1000, 1000, True, state)[1]
            == same(rows * 96 * -(-128 // (32 * segments)))[0]
        )
