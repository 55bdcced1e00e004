"""Which operations take scratch memory, and what cuBLAS keeps."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch

from galore.trainer.memory.workspaces.workspaces import FORMULAS, library_workspaces

from .operations import aten, i64, meta, run


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
    importlib.import_module("torch.nn.attention.varlen")  # registers its own
    for name in FORMULAS:
        *space, operation = name.split("::")
        assert getattr(getattr(torch.ops, space[0] if space else "aten"), operation).overloads()


@pytest.mark.parametrize(
    ("capability", "torch_version", "size"),
    [
        ((8, 9), "2.13.0+cu130", 8519680),
        ((9, 0), "2.11.0", 33554432),
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
