"""The order of the training rows as a function of numbers: no list of indices, no generator to save."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]
Ids = npt.NDArray[np.int64]

ROUNDS = 8
MIN_HALF_BITS = 4  # halves of two bits mix badly
TABLES = 512  # that are held at once


def permute(index: Ids, size: int, seed: int, epoch: Ids) -> Ids:
    """Where a pseudo-random permutation of 0 … size − 1 sends `index`, one permutation for each (seed, epoch).

    A Feistel network over the next even power of two, walked until it falls below `size` (cycle walking, Black and
    Rogaway 2002). Memory is that of `index`, whatever `size` is.

    Args:
        index: (b,) in 0 … size − 1.
        epoch: (b,), the epoch of each index.
    """
    half = np.uint64(max(MIN_HALF_BITS, ((size - 1).bit_length() + 1) // 2))
    key = _mix(_mix(np.full(1, seed % 2**64, np.uint64)) + epoch.astype(np.uint64))
    if half == MIN_HALF_BITS:
        return _permute_few(index, size, key)
    value = _feistel(index.astype(np.uint64), half, key)
    while (outside := value >= size).any():
        value[outside] = _feistel(value[outside], half, key[outside])
    return value.astype(np.int64)


def _permute_few(index: Ids, size: int, key: Words) -> Ids:
    """The same where most of the domain lies outside, and the walk is long: each key's network as a table."""
    keys, owner = np.unique(key, return_inverse=True)
    domain, found = np.arange(1 << 2 * MIN_HALF_BITS, dtype=np.uint64), np.empty_like(index)
    for first in range(0, len(keys), TABLES):
        here = (owner >= first) & (owner < first + TABLES)
        sent = _feistel(domain[None], np.uint64(MIN_HALF_BITS), keys[first : first + TABLES, None]).astype(np.int64)
        table, value = owner[here] - first, index[here]
        value = sent[table, value]
        while (outside := value >= size).any():
            value[outside] = sent[table[outside], value[outside]]
        found[here] = value
    return found


def drawn(shape: tuple[int, ...], seed: int, step: int) -> Words:
    """Pseudo-random words of `shape`, others for each (seed, step)."""
    key = _mix(_mix(np.full(1, seed % 2**64, np.uint64)) + np.full(1, step, np.uint64))
    numbers: Words = np.arange(math.prod(shape), dtype=np.uint64)
    return _mix(numbers + key).reshape(shape)


def _feistel(value: Words, half: np.uint64, key: Words) -> Words:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = value >> half, value & mask
    for turn in range(ROUNDS):
        left, right = right, left ^ (_mix(right + key + np.uint64(turn << 56)) & mask)
    return left << half | right


def _mix(word: Words) -> Words:
    """The finalizer of SplitMix64 (Steele, Lea and Flood 2014); arithmetic is modulo 2⁶⁴."""
    word = word + np.uint64(0x9E3779B97F4A7C15)
    word = (word ^ word >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ word >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return word ^ word >> np.uint64(31)


def rows_of_step(step: int, global_batch_size: int, num_sequences: int, seed: int, shuffle: bool) -> Ids:
    """Row numbers of optimizer step `step`, (global_batch_size,).

    The steps walk through the positions 0, 1, 2, …; position p is entry p mod N of epoch p // N, so the end of an epoch
    may lie within a batch, and a batch may be longer than an epoch. Without `shuffle` every epoch is in stored order.
    """
    position = step * global_batch_size + np.arange(global_batch_size, dtype=np.int64)
    epoch, index = np.divmod(position, num_sequences)
    return permute(index, num_sequences, seed, epoch) if shuffle else index
