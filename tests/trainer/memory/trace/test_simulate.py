"""Operations on `meta` tensors do what the device would do: its kernels, its results' shapes, and numbers to go on with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, pad, scaled_dot_product_attention

from galore.trainer.common.errors import UserError
from galore.trainer.memory.trace.simulate import NORM, SimulatedTracer, attention_kernel, device_operations
from galore.trainer.memory.trace.trace import Trace
from galore.trainer.memory.trace.tracer import Tracer

ADA, TURING = (8, 9), (7, 5)
BF16, FP32 = torch.bfloat16, torch.float32


def meta(*shape: int, dtype: torch.dtype = FP32, **settings: Any) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta", **settings)


# -- which attention kernel


@pytest.mark.parametrize(
    ("kernel", "settings"),
    [
        ("flash", {}),
        ("flash", {"dtype": torch.float16}),
        ("flash", {"kv_heads": 2}),
        ("flash", {"size": 20}),
        ("flash", {"dropout": 0.1}),
        ("flash", {"size": 256}),
        ("efficient", {"size": 264}),
        ("efficient", {"dtype": FP32}),
        ("efficient", {"masked": True}),
        ("efficient", {"capability": TURING, "dtype": torch.float16}),
        ("efficient", {"capability": TURING, "dtype": FP32}),
        ("math", {"capability": TURING}),
        ("efficient", {"value_size": 8}),
        ("math", {"dtype": FP32, "kv_heads": 2}),
        ("math", {"masked": True, "kv_heads": 2}),
        ("math", {"capability": TURING, "kv_heads": 2}),
        ("cpu", {"kind": "cpu"}),
        ("cpu", {"kind": "cpu", "dtype": FP32}),
        ("cpu", {"kind": "cpu", "masked": True}),
        ("cpu", {"kind": "cpu", "kv_heads": 2}),
        ("cpu", {"kind": "cpu", "size": 20}),
        ("math", {"kind": "cpu", "dropout": 0.1}),
        ("math", {"kind": "cpu", "value_size": 8}),
    ],
)
def test_attention_kernel(kernel: str, settings: dict[str, Any]) -> None:
    asked = {
        "kind": "cuda",
        "capability": ADA,
        "dtype": BF16,
        "kv_heads": 4,
        "size": 16,
        "masked": False,
        "dropout": 0.0,
    }
    asked |= settings
    q = meta(2, 4, 8, asked["size"], dtype=asked["dtype"])
    k = meta(2, asked["kv_heads"], 8, asked["size"], dtype=asked["dtype"])
    v = k[..., : asked.get("value_size", asked["size"])]
    mask = meta(8, 8, dtype=torch.bool) if asked["masked"] else None
    assert attention_kernel(asked["kind"], asked["capability"], q, k, v, mask, asked["dropout"]) == kernel


def attend(
    device: str, *, dtype: torch.dtype = BF16, kv_heads: int = 4, size: int = 16, masked: bool = False, **settings: Any
) -> Tensor:
    """Forward and backward; returns the result (B, H, T, D)."""
    q, k, v = (
        torch.ones(2, heads, 8, size, dtype=dtype, device=device).requires_grad_() for heads in (4, kv_heads, kv_heads)
    )
    mask = torch.ones(8, 8, dtype=torch.bool, device=device) if masked else None
    out = nn.functional.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=not masked, enable_gqa=kv_heads < 4, **settings
    )
    out.sum().backward()
    return out


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "float32": {"dtype": FP32},
    "a mask": {"masked": True},
    "GQA": {"kv_heads": 2},
    "GQA in float32": {"kv_heads": 2, "dtype": FP32},
    "odd head": {"size": 20},
    "odd head in float32": {"size": 20, "dtype": FP32},
    "scale": {"scale": 0.3},
    "dropout": {"dropout_p": 0.1},
}


@pytest.mark.parametrize("case", CASES)
def test_attention_on_the_cpu_is_that_of_torch(case: str) -> None:
    """The very allocations that torch's own choice makes, in the same order."""
    real, simulated = Tracer("cpu"), SimulatedTracer()
    with real:
        attend("cpu", **CASES[case])
    with simulated, device_operations("cpu", (0, 0)):
        attend("meta", **CASES[case])
    for trace in (real.trace, simulated.trace):
        assert len(trace.events) > 8
    assert sizes(simulated.trace) == sizes(real.trace)


def sizes(trace: Trace) -> list[int]:
    """Bytes taken and given back, in order."""
    return [(1 if event > 0 else -1) * trace.allocations[abs(event) - 1].nbytes for event in trace.events]


@pytest.mark.parametrize(
    ("case", "operation"),
    [
        ("plain", "_scaled_dot_product_flash_attention"),
        ("GQA", "_scaled_dot_product_flash_attention"),
        ("odd head", "_scaled_dot_product_flash_attention"),
        ("float32", "_scaled_dot_product_efficient_attention"),
        ("a mask", "_scaled_dot_product_efficient_attention"),
        ("GQA in float32", "_safe_softmax"),
    ],
)
def test_attention_on_a_gpu(case: str, operation: str) -> None:
    tracer = SimulatedTracer()
    with tracer, device_operations("cuda", ADA):
        out = attend("meta", **CASES[case])
    assert out.shape == (2, 4, 8, CASES[case].get("size", 16))
    assert out.dtype == CASES[case].get("dtype", BF16)
    found = Counter(each.op for each in tracer.trace.allocations)
    assert found[operation], found
    assert not found["_scaled_dot_product_flash_attention_for_cpu"]
    if operation != "_safe_softmax":
        assert found[f"{operation}_backward"], found
        assert not found["bmm"]


def test_odd_heads_are_padded_for_flash_attention() -> None:
    tracer = SimulatedTracer()
    with tracer, device_operations("cuda", ADA):
        attend("meta", size=20)
    flash = next(each for each in tracer.trace.allocations if each.op.startswith("_scaled_dot_product_flash"))
    assert flash.nbytes == 2 * 4 * 8 * 24 * 2
    assert [each.shape for each in tracer.trace.allocations if each.op == "constant_pad_nd"][:3] == [(2, 4, 8, 24)] * 3


def test_dropout_on_a_gpu_is_one_operation_with_a_byte_per_element() -> None:
    def masks(kind: str) -> list[int]:
        tracer = SimulatedTracer()
        with tracer, device_operations(kind, ADA):
            x = meta(1000, dtype=BF16, requires_grad=True)
            nn.functional.dropout(x, 0.1).sum()
            assert nn.functional.dropout(x, 0.1, training=False) is x
        return [each.nbytes for each in tracer.trace.allocations if each.op == "native_dropout"]

    assert masks("cuda") == [2000, 1000]
    assert masks("cpu") == []


@pytest.mark.parametrize("kind", ["cuda", "cpu"])
@pytest.mark.parametrize("fails", [False, True])
def test_torch_is_as_before_afterwards(kind: str, fails: bool) -> None:
    before = dict(vars(nn.functional))
    with pytest.raises(ValueError, match="planted") if fails else nullcontext(), device_operations(kind, ADA):
        assert nn.functional.scaled_dot_product_attention is not scaled_dot_product_attention
        assert (nn.functional.dropout is dropout) == (kind == "cpu")
        if fails:
            raise ValueError("planted")
    assert vars(nn.functional) == before


# -- numbers


def test_numbers_read_from_meta_let_the_program_go_on() -> None:
    with SimulatedTracer():
        x = meta(3, 4)
        norm = torch.linalg.vector_norm(x)
        assert float(norm) == norm.item() == NORM
        assert bool(torch.isfinite(norm))
        assert bool((x > 0).all())
        assert int(x.argmax()) == 1
        assert torch.stack((norm, norm)).double().cpu().tolist() == [NORM, NORM], "with one wait for both"
        assert float(torch.ones(())) == 1  # of the CPU, which is real


# -- results without the operation

OPERATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "x + x": lambda x: x + x,
    "x + 1": lambda x: x + 1,
    "x * 0.5": lambda x: x * 0.5,
    "transposed": lambda x: x.mT * 2,
    "bfloat16": lambda x: x.to(BF16),
    "float64": lambda x: x.double(),
    "strided copy": lambda x: x.mT.clone(),
    "contiguous copy": lambda x: x.mT.contiguous(),
    "product": lambda x: x @ x.mT,
    "stack of products": lambda x: torch.baddbmm(meta(1, 1, 1), x[None], x.mT[None]),
    "sum": lambda x: x.sum(1),
    "sum, kept": lambda x: x.sum(1, keepdim=True),
    "sum in float64": lambda x: x.sum(1, dtype=torch.float64),
    "norm": lambda x: torch.linalg.vector_norm(x, dtype=torch.float64),
    "softmax": lambda x: torch.softmax(x, 1, dtype=FP32),
    "compared": lambda x: x > 0,
    "where": lambda x: torch.where(x > 0, x, 0),
    "rows": lambda x: x.index_select(0, meta(3, dtype=torch.int64)),
    "indexed": lambda x: x[meta(5, dtype=torch.int64)],
    "concatenated": lambda x: torch.cat([x, x[:1]]),
    "padded": lambda x: pad(x, (0, 3)),
    "zeros like": lambda x: torch.zeros_like(x, dtype=torch.int32),
    "a new one": lambda x: x.new_empty(2, 9),
    "cumulative": lambda x: x.cumsum(0),
    "row sums of integers": lambda x: x.to(torch.int16).sum(0),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_repeated_operation_gives_what_it_gave(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    operation, tracer = OPERATIONS[name], SimulatedTracer()
    expected = operation(meta(6, 4))
    carried, really = [], tracer._carry_out

    def carry_out(func: Any, args: Any, kwargs: Any) -> Any:
        carried.append(func)
        return really(func, args, kwargs)

    with tracer:
        x = meta(6, 4)
        found = [operation(x)]
        monkeypatch.setattr(tracer, "_carry_out", carry_out)
        found.append(operation(x))
    assert all(func._schema.returns[0].alias_info for func in carried), "nothing but views"
    for each in found:
        assert (each.shape, each.stride(), each.dtype) == (expected.shape, expected.stride(), expected.dtype)
    births = [(each.op, each.shape, each.nbytes) for each in tracer.trace.allocations[1:]]
    assert births
    assert births[: len(births) // 2] == births[len(births) // 2 :]


def test_equal_numbers_of_different_types_are_different_operations() -> None:
    def results() -> list[torch.dtype]:
        counts = meta(3, dtype=torch.int64)
        return [(counts + other).dtype for other in (1, 1.0, True, 1)]

    with SimulatedTracer():
        assert results() == [torch.int64, FP32, torch.int64, torch.int64] == results()


def test_an_operation_that_is_given_nan_is_known_again() -> None:
    tracer = SimulatedTracer()
    with tracer:
        for _ in range(3):
            meta(3, dtype=FP32).nan_to_num_(float("nan"))
    assert [str(each.call.function) for each in tracer.trace.operations].count("aten.nan_to_num_.default") == 1


def test_results_of_the_same_shape_are_different_storages() -> None:
    tracer = SimulatedTracer()
    with tracer:
        x = meta(3)
        kept = [x + 1 for _ in range(3)]
    assert len(kept) == len({each.untyped_storage()._cdata for each in kept}) == 3
    assert tracer.trace.requested()[-1] == 4 * 12


def test_an_unsafe_view_is_its_base() -> None:
    tracer = SimulatedTracer()
    with tracer:
        for _ in range(2):
            out = meta(2, 3, 4) @ meta(4, 5)  # view, mm, _unsafe_view
            assert out.shape == (2, 3, 5)
    assert [each.op for each in tracer.trace.allocations] == ["empty", "empty", "mm"] * 2


def test_operations_that_write_are_carried_out() -> None:
    tracer = SimulatedTracer()
    with tracer:
        x, out = meta(3), meta(3)
        assert x.add_(1) is x
        torch.mul(x, 2, out=out)
        assert torch.mul(x, 2, out=out) is out
    assert [each.op for each in tracer.trace.allocations] == ["empty", "empty"]


@pytest.mark.skipif(not hasattr(torch.ops.aten.mm, "dtype"), reason="this torch has no mm with out_dtype")
def test_a_product_in_another_type() -> None:
    with SimulatedTracer():
        found = torch.ops.aten.mm.dtype(meta(3, 4, dtype=BF16), meta(4, 5, dtype=BF16), FP32)
    assert (found.shape, found.dtype, found.is_meta) == ((3, 5), FP32, True)


def test_tensors_of_the_cpu_stay_real() -> None:
    tracer = SimulatedTracer()
    with tracer:
        assert [float((torch.full((2,), 3.0) * 2).sum()) for _ in range(2)] == [12, 12]
        assert [int(torch.tensor(7)) for _ in range(2)] == [7, 7]
    assert tracer.trace.events == []


# -- what cannot be traced


class Counting(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.nonzero()


def test_an_operation_without_a_meta_form_is_named_with_its_module() -> None:
    model = nn.Sequential(nn.Identity(), Counting())
    tracer = SimulatedTracer()
    tracer.follow(model)
    with pytest.raises(UserError, match=r"aten\.nonzero\.default cannot be traced") as refused, tracer:
        model(meta(3))
    assert refused.value.where == "in module 1"
    assert "--measure" in refused.value.fix


def test_an_operation_without_a_meta_form_outside_of_the_model() -> None:
    with pytest.raises(UserError, match=r"aten\._unique2\.default") as refused, SimulatedTracer():
        meta(3).unique()
    assert refused.value.where == "in the forward of the step"
