"""Operations whose memory depends on the device, carried out on `meta` tensors as that device would."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from galore.kernels.device import capability_of_meta, stands_for
from galore.trainer.common.errors import UserError
from galore.trainer.memory.trace.trace import Call, Described, Operation
from galore.trainer.memory.trace.tracer import Tracer

aten = torch.ops.aten

NORM = 1e3  # any number read from the device: finite, and a norm large enough to be clipped


class SimulatedTracer(Tracer):  # type: ignore[no-untyped-call]
    """A tracer of `meta` tensors. Numbers that the program reads from them are finite, conditions are true.

    Raises:
        UserError: an operation has no `meta` form, so that its results' sizes cannot be known.
    """

    def __init__(self, hidden: Any = None, library: int = 0) -> None:
        super().__init__("meta", hidden, library)
        self._known: dict[Call, Operation] = {}  # layers repeat each other
        self._views: dict[int, Operation] = {}  # id of a function that makes views → all that it makes

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        if func is aten._local_scalar_dense.default and args[0].is_meta:
            return {torch.bool: True}.get(args[0].dtype, NORM if args[0].dtype.is_floating_point else 1)
        if func is aten._to_copy.default and args[0].is_meta and str(kwargs.get("device")) == "cpu":
            # read together, with one wait
            return torch.full(args[0].shape, NORM, dtype=kwargs.get("dtype") or args[0].dtype)
        if (view := self._views.get(id(func))) is not None:
            view.count(self.phase, self.stage, stands_for())
            return self._carry_out(func, args, kwargs)
        call = Call(func, (), ()) if _makes_a_view(func) else _call(func, args, kwargs)
        known = self._known.get(call) if call is not None else None
        if known is not None and known.result is not None:
            shape, stride, dtype, _ = known.result
            out = torch.empty_strided(shape, stride, dtype=dtype, device="meta")
        else:
            out = self._carry_out(func, args, kwargs)
        if known is None and call is not None:
            known = self._known[call] = self._meet(call, out)
            if _makes_a_view(func):
                self._views[id(func)] = known
        if known is not None:
            known.count(self.phase, self.stage, stands_for())
        return out

    def launched(self, what: str, flops: int, nbytes: int) -> None:
        """Note what the device would do here and no operation shows."""
        launch = Call(what, (flops, nbytes), ())
        if launch not in self._known:
            self._known[launch] = self._meet(launch, None)
        self._known[launch].count(self.phase, self.stage, stands_for())

    def _meet(self, call: Call, out: Any) -> Operation:
        func = call.function
        made = () if isinstance(func, str) else _fresh(func, out)
        alone = func is aten.mm.dtype or (not isinstance(func, str) and _makes_one_tensor(func) and out.is_meta)
        self.trace.operations.append(Operation(call, made, made[0] if alone else None))
        return self.trace.operations[-1]

    def _carry_out(self, func: Any, args: Any, kwargs: Any) -> Any:
        if func is aten.mm.dtype:
            return args[0].new_empty(args[0].shape[0], args[1].shape[1], dtype=args[2])
        if func is aten.bincount.default:  # PyTorch knows its size from 2.12 on: every value is below `minlength`
            return args[0].new_empty(args[2], dtype=torch.int64)
        try:
            return func(*args, **kwargs)
        except NotImplementedError as error:
            where = f"in module {self._module()}" if self._module() else f"in the {self.stage} of the step"
            raise UserError(
                f"{func} cannot be traced: it says the size of its result only by computing it",
                where=where,
                fix="measure instead: galore profile-memory --measure",
            ) from error


@functools.cache
def _makes_one_tensor(func: Any) -> bool:
    """Whether the result is one fresh tensor and nothing else happens, as the operation's schema says."""
    returns = func._schema.returns
    fresh = len(returns) == 1 and returns[0].alias_info is None and str(returns[0].type) == "Tensor"
    return fresh and not func._schema.is_mutable and func is not aten._unsafe_view.default  # which is a view after all


@functools.cache
def _makes_a_view(func: Any) -> bool:
    """Whether the device has nothing to do: the results are what was given, seen otherwise."""
    schema = func._schema
    return not schema.is_mutable and bool(schema.returns) and all(each.alias_info for each in schema.returns)


def _fresh(func: Any, out: Any) -> tuple[Described, ...]:
    """What an operation made, as its schema says: no view, and nothing that it was given."""
    results = out if isinstance(out, (tuple, list)) else (out,)
    made = (each for each, returned in zip(results, func._schema.returns, strict=False) if returned.alias_info is None)
    return tuple(_described(each) for each in made if isinstance(each, Tensor))


def _call(func: Any, args: Any, kwargs: Any) -> Call | None:
    """What the shape of a result depends on; None where that cannot be a key."""
    named = tuple((name, _described(value)) for name, value in kwargs.items()) if kwargs else ()
    call = Call(func, tuple(map(_described, args)), named)
    try:
        hash(call)
    except TypeError:
        return None
    return call


def _described(value: Any) -> Any:
    if isinstance(value, Tensor):
        return Described(value.shape, value.stride(), value.dtype, value.device.type)
    if isinstance(value, (list, tuple)):
        return tuple(map(_described, value))
    if isinstance(value, float) and math.isnan(value):
        value = math.nan  # equal to itself alone, as this one object
    return (type(value), value)  # 1, 1.0 and True are equal, and give results of different types


@contextmanager
def device_operations(kind: str, capability: tuple[int, int]) -> Iterator[None]:
    """Attention and dropout as `kind` ("cuda" or "cpu") dispatches them; on `meta` torch would take its slow paths.

    They are put in place of torch's functions, since a mode of torch's is off inside the backward, where checkpointed
    blocks run their forward again.
    """
    replaced: dict[str, Any] = {"scaled_dot_product_attention": functools.partial(_attention, kind, capability)}
    if kind == "cuda":
        replaced["dropout"] = _fused_dropout
    original = {name: getattr(torch.nn.functional, name) for name in replaced}
    vars(torch.nn.functional).update(replaced)
    try:
        with capability_of_meta(capability):
            yield
    finally:
        vars(torch.nn.functional).update(original)


def _attention(
    kind: str,
    capability: tuple[int, int],
    query: Tensor,  # (B, H, T, D)
    key: Tensor,  # (B, K, S, D)
    value: Tensor,  # (B, K, S, D)
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:  # (B, H, T, D)
    kernel = attention_kernel(kind, capability, query, key, value, attn_mask, dropout_p)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.where(attn_mask, query.new_zeros(()), query.new_full((), float("-inf")))
    if kernel == "flash":
        return _flash(query, key, value, dropout_p, is_causal, scale)
    if kernel == "cpu":
        out = aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale
        )
    elif kernel == "efficient":
        keeps = query.requires_grad or key.requires_grad or value.requires_grad
        out = aten._scaled_dot_product_efficient_attention(
            query, key, value, attn_mask, keeps, dropout_p, is_causal, scale=scale
        )
    else:
        out = aten._scaled_dot_product_attention_math(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    result: Tensor = out[0]
    return result


def attention_kernel(
    kind: str,
    capability: tuple[int, int],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    dropout: float,
) -> str:
    """Which kernel `scaled_dot_product_attention` takes: "flash", "efficient", "cpu" or "math".

    After aten/src/ATen/native/transformers/cuda/sdp_utils.cpp and sdp_utils_cpp.cpp of PyTorch: flash wants half
    precision, no mask, heads of at most 256 and compute capability 8.0; efficient wants as many key as query heads,
    and bfloat16 no older card than flash.
    """
    same_size = query.shape[-1] == key.shape[-1] == value.shape[-1]
    if kind == "cpu":
        return "cpu" if same_size and dropout == 0.0 else "math"
    half = query.dtype in (torch.bfloat16, torch.float16)
    if half and same_size and mask is None and query.shape[-1] <= 256 and capability >= (8, 0):
        return "flash"
    known = capability >= (8, 0) or query.dtype != torch.bfloat16
    return "efficient" if known and query.shape[1] == key.shape[1] else "math"


def _flash(q: Tensor, k: Tensor, v: Tensor, dropout: float, causal: bool, scale: float | None) -> Tensor:
    """Flash attention; head sizes are padded to multiples of 8 as its caller in aten does."""
    size = q.shape[-1]
    if size % 8:
        q, k, v = (torch.nn.functional.pad(x, (0, 8 - size % 8)) for x in (q, k, v))
    scale = size**-0.5 if scale is None else scale
    out: Tensor = aten._scaled_dot_product_flash_attention(q, k, v, dropout, causal, False, scale=scale)[0]
    return out[..., :size]


def _fused_dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    return torch.native_dropout(input, p, training)[0] if training and 0 < p < 1 else input
