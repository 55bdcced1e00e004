"""Momenta in 4 bits: torch's path in any layout, what a trace on `meta` sees of the kernels', and which one runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from galore.kernels.device import meta_stands_for
from galore.kernels.ops.dispatch import BackendError
from galore.kernels.ops.paths import explain
from galore.kernels.ops.sixteen import CHUNK, decode, encode_
from galore.kernels.reference.operations import quantize_rows_and_columns
from galore.kernels.storage import sixteen


def empty(m: int, n: int, device: str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    sizes = (torch.full((k,), torch.nan, device=device) for k in (m, n))
    return torch.zeros(m, n // 2, dtype=torch.uint8, device=device), *sizes


@pytest.mark.parametrize("across", [False, True])
def test_what_is_read_back_is_the_statements_nearest_value(across: bool) -> None:
    x = torch.randn(30, 40) * torch.randn(30, 1).exp()
    values = sixteen.values(torch.device("cpu")).double()
    codes, rows, columns = quantize_rows_and_columns(x.double(), values)
    kept = empty(30, 40)
    encode_(*kept, x.mT.contiguous().mT if across else x)
    # codes may differ on the edge between two values only, which no number of these is on
    torch.testing.assert_close(decode(*kept).double(), values[codes] * rows[:, None] * columns, rtol=1e-5, atol=0)


class Made(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Shapes of the tensors with memory of their own that operations give."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if isinstance(found, Tensor) and not func.is_view:
            self.shapes.append(tuple(found.shape))
        return found


def on_a_card(x: Tensor, kept: tuple[Tensor, Tensor, Tensor]) -> tuple[list[tuple[str, int]], list[tuple[int, ...]]]:
    """What is noticed on `meta` when x is stored and read, and what is made meanwhile."""
    seen: list[tuple[str, int]] = []
    with meta_stands_for("cuda", lambda what, _, nbytes: seen.append((what, nbytes))), Made() as made:
        encode_(*kept, x)
        assert decode(*kept).shape == x.shape
    return seen, made.shapes


@pytest.mark.parametrize("across", [False, True])
def test_a_card_reads_three_times_and_makes_sums_of_chunks_of_rows_alone(across: bool) -> None:
    m, n = 3 * CHUNK + 2, 40
    x = torch.empty(n, m, device="meta").mT if across else torch.empty(m, n, device="meta")
    seen, made = on_a_card(x, empty(m, n, "meta"))
    held = m * n // 2 + 4 * m + 4 * n
    assert seen == [("to sixteen", 12 * m * n + 2 * 4 * 4 * n + held), ("from sixteen", 4 * m * n + held)]
    assert made == [(4, n), (m, n)]


def test_what_lies_together_neither_way_is_copied_first() -> None:
    _, made = on_a_card(torch.empty(6, 40, device="meta")[:, :8], empty(6, 8, "meta"))
    assert made[0] == (6, 8)


def test_the_path_is_chosen_and_told() -> None:
    x, kept = torch.empty(4, 6, device="meta"), empty(4, 6, "meta")
    with meta_stands_for("cuda", lambda *of: pytest.fail("torch was asked for")):
        encode_(*kept, x, backend="torch")
        decode(*kept, backend="torch")
    with pytest.raises(BackendError, match="for CUDA"):
        encode_(*empty(4, 6), torch.ones(4, 6), backend="triton")
    with pytest.raises(BackendError, match="for CUDA"):
        decode(*empty(4, 6), backend="triton")
    told = {device: [path.path for path in explain(device) if path.op == "4-bit momenta"] for device in ("cpu", "cuda")}
    assert told == {"cpu": ["torch, row blocks"], "cuda": ["triton"]}
