"""Which of CUDA's ways a run takes: sums in fp32, attention whose memory is predicted, one order of sums if asked."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

WORKSPACES = "CUBLAS_WORKSPACE_CONFIG"
ONE_ORDER = ":4096:8"  # eight workspaces of 4 MiB, without which cuBLAS may add in another order every time


def prepare_cuda(deterministic: bool) -> list[str]:
    """Settle what torch leaves open on CUDA, for this process and before its first product; returns lines that say so.

    Partial sums of bf16 products are added in fp32, and `scaled_dot_product_attention` takes the kernels that ship with
    torch: cuDNN's, which it prefers on some cards, need other memory than is predicted.

    Args:
        deterministic: the same bits every time, on the same card and software. Flash attention's backward otherwise
            adds to dQ in whatever order its blocks come.
    """
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.enable_cudnn_sdp(False)
    if deterministic:
        os.environ.setdefault(WORKSPACES, ONE_ORDER)
    _one_order(deterministic)
    order = "always the same" if deterministic else "may differ in the last bits (train.deterministic: true fixes it)"
    return ["products: partial sums in fp32", f"order of sums: {order}"]


@contextmanager
def as_deterministic(wanted: bool) -> Iterator[None]:
    """A context in which operations on `meta` count the memory they take in one order of sums, or in any."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(wanted)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def workspaces(deterministic: bool) -> str:
    """cuBLAS' setting of a run, as the environment would name it; "" is its default."""
    return os.environ.get(WORKSPACES, ONE_ORDER if deterministic else "")


def _one_order(wanted: bool) -> None:
    torch.use_deterministic_algorithms(wanted)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
