"""The proofs, in order of value: what each shows, its cap in seconds, and what its time is made of."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from gpu.records import Records
from gpu.scale import Scale

START = 8.0  # seconds of a process: Python, torch, transformers, the CUDA context, a model; an assumption
PRODUCTS = 0.40 * 989e12  # FLOP/s that products come to on an H100: an assumed share of its published peak
DISK = 1.0e9  # bytes/s written or read with their SHA-256; an assumption


@dataclass(frozen=True)
class Proof:
    """`cap`: seconds after which it is stopped. The rest estimates its time on an H100: processes one after another, FLOPs,
    bytes through the disk, and seconds known otherwise (compilation, tracing, repeated timing)."""

    name: str
    shows: str
    cap: int
    processes: int
    flops: float = 0.0
    disk: float = 0.0
    other: float = 0.0

    @property
    def estimate(self) -> float:
        """Seconds on an H100."""
        return self.processes * START + self.flops / PRODUCTS + self.disk / DISK + self.other

    def run(self, scale: Scale, records: Records) -> None:
        """Carry it out in this process."""
        importlib.import_module(f"gpu.proofs.{self.name}").prove(scale, records)


B7, B13, B1 = 6.74e9, 13.0e9, 1.34e9  # parameters


def _steps(parameters: float, tokens: float, recomputed: bool = True) -> float:
    return (8 if recomputed else 6) * parameters * tokens


PROOFS = (
    Proof("kernels", "doctor, self-test, every kernel against float64 on this card", 100, 3, other=35),
    Proof(
        "memory",
        "predicted against measured peaks, processes limited to what the named card has",
        170,
        6,
        flops=_steps(3 * B7 + B13, 3 * 8192) + _steps(B1, 3 * 8192),
        other=50,
    ),
    Proof(
        "training",
        "LLaMA-7B inside 23.5 GiB trains, is killed with -9 after a checkpoint, and goes on",
        150,
        2,
        flops=_steps(B7, 7 * 8 * 2048),
        disk=2 * 19e9,
        other=30,
    ),
    Proof("exact", "1×8 = 8×1, kill -9 and resume, a NaN step, bit by bit", 70, 4, other=10),
    Proof(
        "speed",
        "tokens per second beside transformers' Trainer with galore-torch, in turns",
        90,
        2,
        flops=9 * 4 * (_steps(0.37e9, 16384, False) + _steps(B1, 8192, False)),
        other=20,
    ),
    Proof("floor", "the kernels measured, against the card's floor and the prediction", 60, 1, other=30),
    Proof("shortage", "out of memory on purpose: message, saved state, advice that then fits", 50, 3, other=6),
    Proof(
        "offload", "a step with and without offloaded activations: how much of the copies is hidden", 40, 1, other=12
    ),
)
NAMES = tuple(proof.name for proof in PROOFS)
