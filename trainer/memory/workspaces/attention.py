"""What attention's fused CUDA kernels take beside their results; arguments are (batch, heads, tokens, head size)."""

from __future__ import annotations

import math
from typing import Any

import torch

from galore.trainer.memory.workspaces.scratch import (
    FLOAT,
    HALF,
    Gpu,
    Workspace,
    at,
    between,
    blocks,
    copied,
    exact,
    up,
)

MOST_SPLITS = 128


def flash_forward(gpu: Gpu, args: tuple[Any, ...], out: Any) -> list[Workspace]:
    """Partial outputs and log-sum-exps of keys split between blocks (flash_attn/flash_api.cpp, set_params_splitkv)."""
    query, key = args[:2]
    (b, h, tokens, size), keys = query.shape, key.shape[2]
    if at(args, 3, 0.0) > 0:
        return []
    per_block = 256 if size <= 64 else 128 if size <= 128 else 64
    splits = key_splits(b * h * blocks(tokens, 64), 2 * gpu.sms, blocks(keys, per_block))
    if splits == 1:
        return []
    rows = splits * b * h * tokens * FLOAT
    return exact(rows, rows * _head(size))


def key_splits(work: int, sms: int, key_blocks: int) -> int:
    """flash_api.cpp, num_splits_heuristic: the fewest splits that fill the card to 85 % of the best.

    `sms` is twice the card's number.
    """
    if work >= 0.8 * sms:
        return 1
    eligible = [
        splits
        for splits in range(1, min(MOST_SPLITS, sms, key_blocks) + 1)
        if splits == 1 or blocks(key_blocks, splits) != blocks(key_blocks, splits - 1)
    ]
    waves = {splits: work * splits / sms for splits in eligible}
    filled = {splits: wave / math.ceil(wave) for splits, wave in waves.items()}
    return next(splits for splits in eligible if filled[splits] >= 0.85 * max(filled.values()))


def flash_backward(gpu: Gpu, args: tuple[Any, ...], out: Any) -> list[Workspace]:
    """softmax_d, dq_accum, and dK and dV before grouped heads are added (flash_attn/flash_api.cpp, mha_bwd)."""
    gradient, query, key, _, forward = args[:5]
    (b, h, tokens, size), (_, groups, keys, _) = query.shape, key.shape
    rows = b * h * up(tokens, 128) * FLOAT
    expanded = b * h * keys * size * query.element_size() if groups != h else 0
    turned = (copied(gradient.transpose(1, 2)), copied(forward.transpose(1, 2)))
    parts = blocks(gpu.sms, b * h) if torch.are_deterministic_algorithms_enabled() else 1
    return exact(*turned, rows, parts * rows * _head(size), expanded, expanded)


def varlen_backward(gpu: Gpu, args: tuple[Any, ...], out: Any) -> list[Workspace]:
    """What `flash_backward` takes, of segments (tokens, heads, head size): 128 rows more for each (mha_varlen_bwd)."""
    gradient, query, key, _, forward, _, bounds = args[:7]
    (tokens, h, size), segments = query.shape, bounds.numel() - 1
    rows = h * (tokens + 128 * segments) * FLOAT
    expanded = tokens * h * size * query.element_size() if key.shape[1] != h else 0
    parts = blocks(gpu.sms, segments * h) if torch.are_deterministic_algorithms_enabled() else 1
    return exact(copied(gradient), copied(forward), rows, parts * rows * _head(size), expanded, expanded)


def _head(size: int) -> int:
    """The head size that flash attention's float32 accumulators are made for."""
    return up(size, 32 if size <= 128 else 64)


def efficient_forward(gpu: Gpu, args: tuple[Any, ...], out: Any) -> list[Workspace]:
    """Float32 output for wide heads in half precision (mem_eff_attention/kernel_forward.h, kNeedsOutputAccumulator)."""
    query, _, value = args[:3]
    b, h, tokens, size = query.shape
    wide = query.dtype in HALF and max(size, value.shape[3]) > 128
    return exact(b * h * tokens * value.shape[3] * FLOAT) if wide else []


def efficient_backward(gpu: Gpu, args: tuple[Any, ...], out: Any) -> list[Workspace]:
    """delta and the kernel's workspace (transformers/cuda/attention_backward.cu, _efficient_attention_backward).

    In float32 delta is a product and its sum, alive beside it; both are given back before the workspace is taken.
    """
    gradient, query, key, value = args[:4]
    (b, h, tokens, size), keys, value_size = query.shape, key.shape[2], value.shape[3]
    half = query.dtype in HALF
    sizes = [
        _kernel_workspace(kernel, half, b * h, tokens, keys, size, value_size)
        for kernel in kernels(gpu.capability, half, max(size, value_size))
    ]
    delta = b * h * tokens * FLOAT
    before = 0 if half else delta * value_size + delta
    fixed = exact(copied(gradient.transpose(1, 2)), delta)
    return fixed + between(max(before, min(sizes)), max(before, max(sizes)))


def kernels(capability: tuple[int, int], half: bool, size: int) -> list[tuple[int, int, bool]]:
    """(query block, key block, dK and dV stay in registers) that may be dispatched to (kernels/cutlassB.h).

    Several where it depends on the card's shared memory: 99 KiB a block on GeForce, 163 KiB and more in data centers.
    """
    if not half:
        return [(64, 64, False)] if size <= 64 else [(128, 64, False), (64, 64, False)]
    if size <= 64:
        return [(64, 64, True)]
    if size <= 96 and capability in {(8, 6), (8, 9)}:
        return [(128, 64, True)]
    if size <= 128:
        large = capability == (8, 0) or capability[0] in {9, 10}
        return [(128, 128, True)] if large else [(64, 64, False), (128, 64, True)]
    return [(128, 64, False), (64, 64, False)]


def _kernel_workspace(
    kernel: tuple[int, int, bool], half: bool, heads: int, tokens: int, keys: int, size: int, value_size: int
) -> int:
    """dQ tiles with a lock each; dK and dV where registers do not hold them (kernel_backward.h, workspace_size)."""
    rows, columns, in_registers = kernel
    tile = 16 + rows * columns * FLOAT
    elements = blocks(tokens, rows) * blocks(size, columns) * tile // FLOAT
    if half and not in_registers:
        splits = max(min(blocks(keys, columns), 200 // heads), 1)  # attention_backward.cu, num_splits_key
        elements += splits * columns * (up(size, rows) + up(value_size, rows))
    return heads * up(elements, 4) * FLOAT
