"""The proofs, in order of value: what each shows, its cap in seconds, and what its time is made of."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gpu.records import Records
from gpu.scale import Scale

START = 11.0  # seconds of a process: Python, torch, transformers, the CUDA context, a model; an assumption
PRODUCTS = 0.40 * 989e12  # FLOP/s that products come to on an H100: an assumed share of its published peak
DISK = 1.0e9  # bytes/s written or read with their SHA-256; an assumption


@dataclass(frozen=True)
class Proof:
    """`cap`: seconds after which it is stopped. The rest estimates its time on an H100: processes one after another, FLOPs,
    bytes through the disk, and seconds known otherwise (compilation, tracing, repeated timing). `beside`: nothing in it is
    timed, so that it runs at the same time as its neighbours of that kind."""

    name: str
    shows: str
    cap: int
    processes: int
    flops: float = 0.0
    disk: float = 0.0
    other: float = 0.0
    beside: bool = False

    @property
    def estimate(self) -> float:
        """Seconds on an H100."""
        return self.processes * START + self.flops / PRODUCTS + self.disk / DISK + self.other

    def run(self, scale: Scale, records: Records) -> None:
        """Carry it out in this process."""
        importlib.import_module(f"gpu.proofs.{self.name}").prove(scale, records)


B1, B7, B13, B32 = 1.34e9, 6.74e9, 13.0e9, 32.5e9  # parameters
BUS = 40e9  # bytes/s from pinned memory; an assumption


def _steps(parameters: float, tokens: float, recomputed: bool = True) -> float:
    return (8 if recomputed else 6) * parameters * tokens


PROOFS = (
    Proof("kernels", "doctor, self-test, every kernel against float64 on this card", 140, 3, other=42, beside=True),
    Proof(
        "exact", "1×8 = 8×1, kill -9 and resume, a NaN step of every method, bit by bit", 150, 5, other=20, beside=True
    ),
    Proof(
        "ranks",
        "one process by NCCL and two by gloo on this card: the steps of one without",
        90,
        2,
        other=10,
        beside=True,
    ),
    Proof(
        "shortage",
        "out of memory on purpose: message, saved state, advice that then fits",
        150,
        3,
        other=30,
        beside=True,
    ),
    Proof(
        "training",
        "LLaMA-7B inside 23.5 GiB trains, is killed with -9 after a checkpoint, and goes on",
        200,
        2,
        flops=_steps(B7, 8 * 8 * 2048),
        disk=3 * 19e9,
        other=70,
        beside=True,
    ),
    Proof(
        "memory",
        "predicted against measured peaks, 60M to 1.3B, processes limited to what the named card has",
        180,
        3,
        flops=_steps(2 * B1, 3 * 8192),
        other=60,
        beside=True,
    ),
    Proof(
        "large",
        "the same of 7B and 13B",
        180,
        3,
        flops=_steps(3 * B7 + B13, 3 * 8192),
        other=60,
        beside=True,
    ),
    Proof(
        "speed",
        "tokens per second beside transformers' Trainer with galore-torch, in turns",
        110,
        2,
        flops=9 * 4 * (_steps(0.37e9, 16384, False) + _steps(B1, 8192, False)),
        other=30,
    ),
    Proof("account", "where the seconds of a step go, by part and by kernel", 70, 2, other=25),
    Proof("floor", "the kernels measured, against the card's floor and the prediction", 60, 1, other=30),
    Proof(
        "offload", "a step with and without offloaded activations: how much of the copies is hidden", 40, 1, other=15
    ),
    Proof(
        "matmul",
        "products in int8 and fp8 beside bf16: errors, times per shape, whole steps of 350M, 1B, 7B",
        120,
        3,
        flops=3 * 14 * _steps(B1, 4096, False),
        other=40,
    ),
    Proof(
        "fused",
        "RMSNorm, SwiGLU and rotary positions in one pass: errors, times, whole steps of 350M, 1B, 7B",
        150,
        4,
        flops=4 * 14 * _steps(B1, 4096, False),
        other=40,
    ),
    Proof(
        "fixed",
        "as memory, with segments of fixed size",
        140,
        4,
        flops=_steps(3 * B7 + B13, 3 * 8192) + _steps(B1, 3 * 8192),
        other=60,
    ),
    Proof(
        "streaming",
        "weights in host memory, 7B to 32B: bytes and seconds predicted and measured, within an RTX 4090's memory",
        300,
        4,
        flops=_steps(2 * B7 + B13 + B32, 5 * 16384),
        other=5 * 8 * (B7 + B13 + B32) / BUS + 60,
    ),
)
NAMES = tuple(proof.name for proof in PROOFS)


def groups(proofs: Sequence[Proof]) -> list[list[Proof]]:
    """Proofs in their order, neighbours that may run at the same time together."""
    return [
        part for beside, run in itertools.groupby(proofs, lambda proof: proof.beside) for part in _apart(beside, run)
    ]


def _apart(beside: bool, run: Iterable[Proof]) -> list[list[Proof]]:
    return [list(run)] if beside else [[proof] for proof in run]


def estimated(proofs: Sequence[Proof]) -> float:
    """Seconds of all."""
    return sum(max(proof.estimate for proof in group) for group in groups(proofs))
