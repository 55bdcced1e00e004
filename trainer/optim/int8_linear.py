"""Linear layers with a trained weight in 8 bits: multiplied as floating point, its gradient handed over as factors.

No m×n gradient exists, and the weight in floating point only while a product takes it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from galore.kernels.linear import Factors, Products, as_autocast, as_rows
from galore.kernels.ops.int8 import dequantize, quantize

Receive = Callable[[Factors], None]
OF_RECEIVER = ("receive", "expect", "transposed")  # what a layer has of the optimizer
LEFT = "_a_layer_left_it_for_int8"  # attribute of a weight that codes have replaced


class Int8Linear(nn.Linear):
    """y = x (s q)ᵀ + bias; `weight` is the codes q (m, n) in int8, the buffer `weight_scale` s (m, n / group) in bf16.

    `receive` takes the factors of the weight's gradient; without one there is none, and nobody trains it, as in a copy.
    `products` multiply while training, reading the codes; without them the weight is formed in floating point.
    """

    weight_scale: Tensor
    receive: Receive | None = None
    expect: Callable[[], None] | None = None  # told of every forward whose backward will call `receive`
    products: Products | None = None
    transposed: bool | None = None  # how `receive` wants them oriented
    dtype: torch.dtype  # that products are computed in

    @property
    def floating(self) -> Tensor:
        """s q (m, n) in `dtype`, made anew."""
        return dequantize(self.weight, self.weight_scale, self.dtype)

    def forward(self, input: Tensor) -> Tensor:  # (…, n) → (…, m)
        if self.receive is None or not torch.is_grad_enabled():
            return nn.functional.linear(input, self.floating, self.bias)
        # what checkpointing computes anew inside a backward is no further use
        if self.expect is not None and torch._C._current_graph_task_id() == -1:
            self.expect()
        # so that there is a backward if x needs none
        handle = torch.empty(0, dtype=torch.float32, device=input.device, requires_grad=True)
        bias = None if self.bias is None else as_autocast(self.bias)
        y: Tensor = _Int8Linear.apply(as_autocast(input), handle, bias, self)  # type: ignore[no-untyped-call]
        return y

    def __getstate__(self) -> dict[str, Any]:
        return {name: each for name, each in vars(self).items() if name not in OF_RECEIVER}


class _Int8Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, handle: Tensor, bias: Tensor | None, layer: Int8Linear) -> Tensor:
        ctx.save_for_backward(x)
        ctx.layer = layer
        if layer.products is None:
            return nn.functional.linear(x, layer.floating, bias)
        y = layer.products.forward(x, layer.weight, layer.weight_scale)
        return y if bias is None else y.add_(bias)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, None, Tensor | None, None]:
        (x,), (dy,), layer = ctx.saved_tensors, grads, ctx.layer
        # first: the receiver may update the weight at once
        dx = _input_gradient(layer, dy) if ctx.needs_input_grad[0] else None
        layer.receive(Factors.of(x.to(layer.dtype), dy.to(layer.dtype), layer.transposed))
        return dx, None, as_rows(dy).sum(0) if ctx.needs_input_grad[2] else None, None


def _input_gradient(layer: Int8Linear, dy: Tensor) -> Tensor:
    if layer.products is None:
        return dy @ layer.floating.to(dy.dtype)
    return layer.products.input_gradient(dy, layer.weight, layer.weight_scale)


@torch.no_grad()
def to_int8(linear: nn.Module) -> None:
    """Make an `Int8Linear` of a linear layer, in place, its weight rounded to nearest.

    Raises:
        ValueError: the layer is of a kind with a forward of its own, which would be lost, or its weight was that of
            another layer, too, which is in int8 now.
    """
    if type(linear).forward is not nn.Linear.forward:
        raise ValueError(f"{type(linear).__name__} has a forward of its own: its weight cannot be kept in int8")
    assert isinstance(linear, nn.Linear)
    refuse_left_behind(linear)
    dtype = linear.weight.dtype
    codes, scales = quantize(linear.weight)
    setattr(linear.weight, LEFT, True)
    linear.weight = nn.Parameter(codes, requires_grad=False)
    linear.register_buffer("weight_scale", scales)
    linear.__class__ = Int8Linear
    linear.dtype = dtype  # type: ignore[assignment]


def refuse_left_behind(model: nn.Module) -> None:
    """Raise ValueError if a module in `model` had one weight with a layer that is in int8 now."""
    for name, parameter in model.named_parameters():
        if hasattr(parameter, LEFT):
            raise ValueError(
                f"{name} is shared with a layer that is in int8 now, and codes cannot be shared: make the model anew, and "
                "leave layers that share a weight in floating point"
            )


@torch.no_grad()
def to_floating(model: nn.Module) -> None:
    """Make plain linear layers of all `Int8Linear` of `model`, in place."""
    for layer in int8_layers(model):
        weight = nn.Parameter(layer.floating)
        del layer._buffers["weight_scale"]
        for name in OF_RECEIVER:
            vars(layer).pop(name, None)
        plain: nn.Module = layer
        plain.__class__ = nn.Linear
        layer.weight = weight


def int8_layers(model: nn.Module) -> list[Int8Linear]:
    return [module for module in model.modules() if isinstance(module, Int8Linear)]
