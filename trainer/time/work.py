"""What an operation asks of the device that carries it out: FLOPs, and bytes that have to pass through its memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, NamedTuple

import torch

from galore.kernels.host import FROM_HOST, TO_HOST
from galore.kernels.ops.matmul.codes import PRODUCT
from galore.kernels.ops.matmul.formats import FORMATS
from galore.trainer.memory.trace.trace import Call, Described, Operation

aten = torch.ops.aten

Kind = Literal["product", "attention", "pass", "decomposition", "kernel", "to host", "from host", "nothing"]


class Work(NamedTuple):
    """One operation. `shape` is (batch, m, n, k) of a product of (m, k) and (k, n) matrices; empty for others."""

    kind: Kind
    flops: float
    nbytes: float
    dtype: torch.dtype = torch.float32
    shape: tuple[int, ...] = ()


NOTHING = Work("nothing", 0, 0)
BUSES: dict[str, Kind] = {TO_HOST: "to host", FROM_HOST: "from host"}
EIGHT = {PRODUCT[name]: form.dtype for name, form in FORMATS.items()}  # → what such a kernel multiplies


def multiplies_in_eight_bits(operations: Iterable[Operation]) -> bool:
    """Whether one of them is a product of 8-bit codes."""
    return any(isinstance(each.call.function, str) and each.call.function in EIGHT for each in operations)


def work_of(operation: Operation, device: str = "meta") -> Work:
    """What `operation` asks of `device`; NOTHING where it makes a view, or works on another device."""
    call = operation.call
    if isinstance(call.function, str):
        flops, nbytes = call.arguments
        kind, dtype = BUSES.get(call.function, "kernel"), EIGHT.get(call.function, torch.bfloat16)
        return Work(kind, flops, nbytes, dtype)
    given = [each for each in tensors(call) if each.device == device]
    made = [each for each in operation.made if each.device == device]
    if not given and not made:
        return NOTHING
    packet = call.function._overloadpacket
    if packet in PRODUCTS:
        return _product(call, PRODUCTS[packet], given, made)
    if packet in ATTENTION:
        return _attention(call, ATTENTION[packet], given, made)
    if packet in DECOMPOSITIONS:
        return Work("decomposition", DECOMPOSITIONS[packet](given[0]), _bytes(given) + _bytes(made), given[0].dtype)
    return _pass(call, given, made)


def tensors(call: Call) -> Iterator[Described]:
    """Every tensor that a call is given."""
    yield from _flat((*call.arguments, *(value for _, value in call.keywords)))


def _flat(value: Any) -> Iterator[Described]:
    if isinstance(value, Described):
        yield value
    elif isinstance(value, tuple):
        for each in value:
            yield from _flat(each)


def _bytes(described: list[Described]) -> float:
    return float(sum(map(nbytes, described)))


def nbytes(tensor: Described) -> int:
    """Bytes that reading all of `tensor` touches: what is expanded is read from the cache."""
    own = (size for size, step in zip(tensor.shape, tensor.stride, strict=True) if step != 0 or size == 0)
    return math.prod(own) * int(tensor.dtype.itemsize)


# -- products

# → which argument is the first factor
PRODUCTS: dict[Any, int] = {
    aten.mm: 0,
    aten.bmm: 0,
    aten.addmm: 1,
    aten.addmm_: 1,
    aten.baddbmm: 1,
    aten.baddbmm_: 1,
    aten._int_mm: 0,
}


def _product(call: Call, first: int, given: list[Described], made: list[Described]) -> Work:
    x, y = call.arguments[first], call.arguments[first + 1]
    batch, (m, k), n = math.prod(x.shape[:-2]), x.shape[-2:], y.shape[-1]
    written = _bytes(made) or _bytes([call.arguments[0]])
    return Work("product", 2.0 * batch * m * n * k, _bytes(given) + written, x.dtype, (batch, m, n, k))


# -- attention

# → products of (T, S) by D
ATTENTION: dict[Any, float] = {
    aten._scaled_dot_product_flash_attention: 2,
    aten._scaled_dot_product_flash_attention_backward: 5,
    aten._scaled_dot_product_efficient_attention: 2,
    aten._scaled_dot_product_efficient_attention_backward: 5,
    aten._scaled_dot_product_flash_attention_for_cpu: 2,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: 5,
}


def _attention(call: Call, products: float, given: list[Described], made: list[Described]) -> Work:
    """A causal kernel leaves out the half that nobody sees."""
    named = dict(zip((each.name for each in call.function._schema.arguments), call.arguments, strict=False))
    named |= dict(call.keywords)
    q, k = named["query"], named["key"]
    pairs = math.prod(q.shape[:-1]) * k.shape[-2]
    causal = named.get("is_causal", (bool, False))[1]
    flops = 2.0 * products * pairs * q.shape[-1] * (0.5 if causal else 1.0)
    return Work("attention", flops, _bytes(given) + _bytes(made), q.dtype)


# -- decompositions

Shape = Callable[[Described], float]


def _sides(matrix: Described) -> tuple[int, int, int]:
    *batch, m, n = matrix.shape
    return math.prod(batch), max(m, n), min(m, n)


def _qr(matrix: Described) -> float:
    """R, and Q as a matrix."""
    batch, m, n = _sides(matrix)
    return batch * (4.0 * m * n * n - 4 / 3 * n**3)


def _svd(matrix: Described) -> float:
    """Golub and Van Loan's count of U, S and V by R-SVD."""
    batch, m, n = _sides(matrix)
    return batch * (6.0 * m * n * n + 20.0 * n**3)


def _eigh(matrix: Described) -> float:
    batch, _, n = _sides(matrix)
    return batch * 9.0 * n**3


def _cholesky(matrix: Described) -> float:
    batch, _, n = _sides(matrix)
    return batch * n**3 / 3


DECOMPOSITIONS: dict[Any, Shape] = {
    aten.linalg_qr: _qr,
    aten._linalg_svd: _svd,
    aten._linalg_eigh: _eigh,
    aten.linalg_cholesky_ex: _cholesky,
}

# -- all others: each tensor passes once

UNTOUCHED = {aten.empty, aten.new_empty, aten.empty_like, aten.empty_strided, aten.new_empty_strided}
PICKED = {aten.embedding, aten.index, aten.index_select, aten.gather}  # of the first argument what is made


def _pass(call: Call, given: list[Described], made: list[Described]) -> Work:
    packet, schema = call.function._overloadpacket, call.function._schema
    if packet in UNTOUCHED:
        return NOTHING
    written = [
        each
        for argument, value in zip(schema.arguments, call.arguments, strict=False)
        if argument.alias_info is not None and argument.alias_info.is_write
        for each in _flat(value)
    ]
    if not made and not written:
        return NOTHING
    moved = _bytes(given) + _bytes(made) + _bytes(written)
    if packet in PICKED:
        moved = _bytes(given[1:]) + 2 * _bytes(made)
    elif packet is aten.copy_:
        moved -= _bytes(written)  # what is overwritten is not read
    return Work("pass", 0, moved, (given or made)[0].dtype)
