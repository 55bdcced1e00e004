"""Memory that CUDA operations take below the dispatcher, where a trace of `meta` tensors cannot see it.

Sizes follow PyTorch 2.11 to 2.14. An operation that is not in the table takes nothing but its results.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from galore.kernels.cuda import workspaces
from galore.trainer.memory.workspaces.attention import (
    efficient_backward,
    efficient_forward,
    flash_backward,
    flash_forward,
    varlen_backward,
)
from galore.trainer.memory.workspaces.indexing import cumulative, embedding_backward, nonzero, product
from galore.trainer.memory.workspaces.linalg import eigh, qr, svd
from galore.trainer.memory.workspaces.reduction import extremum, reduction
from galore.trainer.memory.workspaces.scratch import Formula, Gpu, Workspace

__all__ = ["Workspace", "cuda_workspaces", "library_workspaces"]

KIB = 2**10
MIB = 2**20

FORMULAS: dict[str, Formula] = {
    "aten::_scaled_dot_product_flash_attention": flash_forward,
    "aten::_scaled_dot_product_flash_attention_backward": flash_backward,
    "aten::_scaled_dot_product_efficient_attention": efficient_forward,
    "aten::_scaled_dot_product_efficient_attention_backward": efficient_backward,
    "torch_attn::_varlen_attn_backward": varlen_backward,
    "aten::embedding_dense_backward": embedding_backward,
    "aten::nonzero": nonzero,
    "aten::cumsum": cumulative,
    "aten::mm": product(0),
    "aten::bmm": product(0),
    "aten::addmm": product(1),
    "aten::baddbmm": product(1),
    "aten::linalg_qr": qr,
    "aten::_linalg_svd": svd,
    "aten::_linalg_eigh": eigh,
    "aten::sum": reduction(1),
    "aten::mean": reduction(1),
    "aten::prod": reduction(1),
    "aten::linalg_vector_norm": reduction(2),
    "aten::amax": extremum(1),
    "aten::amin": extremum(1),
    "aten::max": extremum(1),
    "aten::min": extremum(1),
    "aten::all": extremum(1),
    "aten::any": extremum(1),
    "aten::argmax": extremum(1, indexed=True),
    "aten::argmin": extremum(1, indexed=True),
}


def cuda_workspaces(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any, card_capability: tuple[int, int], sms: int
) -> list[Workspace]:
    """The storages that `func` holds together while it runs, and gives back at its end.

    Args:
        func: an operation of aten or another library, as a dispatch mode sees it.
        args, kwargs, out: its arguments and result, on `meta` or a GPU; on the CPU it takes nothing here.
        card_capability, sms: compute capability and multiprocessors of the GPU.
    """
    formula = _formula_of(func)
    if formula is None or not isinstance(args[0], Tensor) or args[0].is_cpu:
        return []
    return formula(Gpu(card_capability, sms), args, out)


_FOUND: dict[int, Formula | None] = {}  # id of an operation, which lives as long as the process, → its formula


def _formula_of(func: Any) -> Formula | None:
    if id(func) not in _FOUND:
        _FOUND[id(func)] = FORMULAS.get(func._schema.name)
    return _FOUND[id(func)]


def library_workspaces(capability: tuple[int, int], configuration: str | None = None) -> int:
    """Bytes that cuBLAS keeps per thread and stream: once for the forward's thread, once for autograd's.

    As in PyTorch's aten/src/ATen/cuda/CublasHandlePool.cpp (parseChosenWorkspaceSize). cuBLASLt, which only products
    with a vector bias use, shares this.

    Args:
        configuration: as in CUBLAS_WORKSPACE_CONFIG; None is what the environment has there.
    """
    sizes = re.findall(r":([0-9]+):([0-9]+)", workspaces(False) if configuration is None else configuration)
    if sizes:
        return sum(int(size) * int(count) for size, count in sizes) * KIB
    return 32 * MIB if _takes_32_mib(capability[0], _torch_version()) else (2 * 4096 + 8 * 16) * KIB


def _takes_32_mib(major: int, version: tuple[int, ...]) -> bool:
    since = {9: (2, 6), 10: (2, 12), 11: (2, 14), 12: (2, 12)}.get(major)
    return since is not None and version >= since


def _torch_version() -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"[0-9]+", torch.__version__)[:2]))
