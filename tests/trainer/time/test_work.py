"""FLOPs and bytes of operations, against counts made by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from galore.kernels.device import meta_stands_for
from galore.trainer.memory.trace.simulate import SimulatedTracer, device_operations
from galore.trainer.time.work import NOTHING, Work, nbytes, tensors, work_of

Traced = Callable[[Callable[..., Any], Any], list[Work]]


def traced(function: Callable[..., Any], *given: Tensor) -> list[Work]:
    tracer = SimulatedTracer()
    with meta_stands_for("cuda", tracer.launched), device_operations("cuda", (8, 9)), tracer:
        function(*given)
    return [work for each in tracer.trace.operations if (work := work_of(each)) is not NOTHING]


def meta(*shape: int, dtype: torch.dtype = torch.bfloat16, grad: bool = False) -> Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta", requires_grad=grad)


def test_a_product() -> None:
    (found,) = traced(torch.mm, meta(30, 20), meta(20, 50))
    assert found == Work("product", 2 * 30 * 20 * 50, 2 * (600 + 1000 + 1500), torch.bfloat16, (1, 30, 50, 20))


def test_a_batch_of_products_and_one_that_is_added_to() -> None:
    (found,) = traced(torch.bmm, meta(4, 30, 20), meta(4, 20, 50))
    assert (found.flops, found.shape) == (4 * 2 * 30 * 20 * 50, (4, 30, 50, 20))
    (found,) = traced(lambda c, a, b: c.addmm_(a, b), meta(30, 50), meta(30, 20), meta(20, 50))
    assert found.flops == 2 * 30 * 20 * 50
    assert found.nbytes == 2 * (600 + 1000 + 2 * 1500)


def test_attention_counts_half_of_the_pairs_where_it_is_causal() -> None:
    q, k, v = (meta(2, 8, 64, 32) for _ in range(3))
    attend = torch.nn.functional.scaled_dot_product_attention
    del attend  # the context puts another in its place
    whole, half = (
        traced(lambda *x, c=c: torch.nn.functional.scaled_dot_product_attention(*x, is_causal=c), q, k, v)
        for c in (False, True)
    )
    flops = [each.flops for each in whole if each.kind == "attention"]
    assert flops == [4 * 2 * 8 * 64 * 64 * 32]
    assert [each.flops for each in half if each.kind == "attention"] == [flops[0] / 2]


@pytest.mark.parametrize(
    ("function", "moved"),
    [
        (lambda x: x * 2, 2 * 4000),
        (lambda x: x.mul_(2), 2 * 4000),
        (lambda x: x.float(), 4000 + 8000),
        (lambda x: x.zero_(), 2 * 4000),
        (lambda x: x.t(), None),
        (lambda x: torch.empty_like(x), None),
        (lambda x: x + x[:1].expand(40, 50), 3 * 4000 - 39 * 100),
    ],
)
def test_a_pass_over_memory(function: Callable[[Tensor], Any], moved: int | None) -> None:
    found = traced(function, meta(40, 50))
    assert [each.nbytes for each in found] == ([] if moved is None else [moved])
    assert all(each.kind == "pass" for each in found)


def test_an_embedding_reads_the_rows_it_picks() -> None:
    ids = torch.zeros(7, dtype=torch.int64, device="meta")
    (found,) = traced(torch.nn.functional.embedding, ids, meta(1000, 16))
    assert found.nbytes == 7 * 8 + 2 * 7 * 16 * 2


def test_decompositions() -> None:
    (found,) = traced(torch.linalg.qr, meta(60, 20, dtype=torch.float32))
    assert (found.kind, found.flops) == ("decomposition", 4 * 60 * 400 - 4 / 3 * 8000)


def test_what_no_operation_shows() -> None:
    from galore.kernels.device import notice

    found = traced(lambda: (notice("lift", 7, 9), notice("copy to the host", 0, 5)))
    assert [(each.kind, each.flops, each.nbytes) for each in found] == [("kernel", 7, 9), ("to host", 0, 5)]


def test_layers_that_repeat_are_one_operation() -> None:
    tracer = SimulatedTracer()
    tracer.begin("ordinary step")
    x = meta(4, 4)
    with tracer:
        for _ in range(3):
            torch.mm(x, x)
    (operation,) = tracer.trace.operations
    assert operation.counts == {("ordinary step", "forward"): 3}
    assert [nbytes(each) for each in tensors(operation.call)] == [32, 32]
