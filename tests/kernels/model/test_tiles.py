"""A function of tokens in tiles is the function: float64 throughout, whatever the tile, and nothing between is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from galore.kernels.model.tiles import in_tiles

TOKENS, WIDTH, INNER = 11, 6, 9


def weights(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    shapes = [(INNER, WIDTH), (INNER, WIDTH), (WIDTH, INNER), (WIDTH,)]
    return [torch.randn(shape, generator=draw, dtype=dtype).requires_grad_() for shape in shapes]


def swiglu(gate: Tensor, up: Tensor, down: Tensor, bias: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda x: (F.silu(x @ gate.mT) * (x @ up.mT)) @ down.mT + bias


def tokens(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(1, TOKENS, WIDTH, generator=torch.Generator().manual_seed(1), dtype=dtype).requires_grad_()


def found(function: Callable[[Tensor], Tensor], x: Tensor, parameters: list[Tensor]) -> list[Tensor]:
    """The result, and the gradients of x and of the parameters."""
    out = function(x)
    loss = (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).sum()
    return [out.detach(), *torch.autograd.grad(loss, [x, *parameters])]


@pytest.mark.parametrize("tile", [1, 3, 4, 10, TOKENS, 50])
def test_float64_oracle(tile: int) -> None:
    x, parameters = tokens(), weights()
    function = swiglu(*parameters)
    whole = found(function, x, parameters)
    ours = found(lambda given: in_tiles(function, given, tile, parameters), x, parameters)
    for one, other in zip(ours, whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_gradcheck() -> None:
    x, parameters = tokens(), weights()
    given: Any = (x, *parameters)
    assert torch.autograd.gradcheck(lambda x, *each: in_tiles(swiglu(*each), x, 4, each), given)


def test_rows_of_several_sequences_are_one_row_of_tokens() -> None:
    x, parameters = tokens().detach().view(TOKENS, 1, WIDTH).requires_grad_(), weights()
    function = swiglu(*parameters)
    whole = found(function, x, parameters)
    ours = found(lambda given: in_tiles(function, given, 4, parameters), x, parameters)
    for one, other in zip(ours, whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_sums_over_tiles_are_fp32() -> None:
    """No worse than one product over all tokens, which is rounded once."""
    many, parameters = 64, weights(torch.bfloat16)
    x = torch.randn(1, many, WIDTH, generator=torch.Generator().manual_seed(2), dtype=torch.bfloat16).requires_grad_()
    exact = [each.detach().double().requires_grad_() for each in parameters]
    true = found(swiglu(*exact), x.detach().double().requires_grad_(), exact)
    function = swiglu(*parameters)
    whole = found(function, x, parameters)
    ours = found(lambda given: in_tiles(function, given, 1, parameters), x, parameters)
    for one, other, right in zip(ours, whole, true, strict=True):
        assert one.dtype == torch.bfloat16
        assert (one.double() - right).norm() <= 1.5 * (other.double() - right).norm()


def test_its_input_alone_is_kept() -> None:
    kept: list[Tensor] = []
    x, parameters = tokens(), weights()
    with saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        in_tiles(swiglu(*parameters), x, 4, parameters)
    assert {each.data_ptr() for each in kept} == {x.data_ptr()}


class Counted:
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function, self.rows = function, 0

    def __call__(self, x: Tensor) -> Tensor:
        self.rows += x.shape[1]
        return self.function(x)


def test_a_checkpointed_block_computes_it_twice_not_thrice() -> None:
    x, parameters = tokens(), weights()
    function = Counted(swiglu(*parameters))
    out = checkpoint(lambda given: in_tiles(function, given.tanh(), 4, parameters), x, use_reentrant=False)
    assert function.rows == TOKENS
    out.sum().backward()
    assert function.rows == 2 * TOKENS


def test_a_parameter_that_is_not_used_gets_no_gradient() -> None:
    x, parameters = tokens(), weights()
    spare = torch.ones(3, requires_grad=True)
    in_tiles(swiglu(*parameters), x, 4, [*parameters, spare]).sum().backward()
    assert spare.grad is None
    assert parameters[0].grad is not None


def test_without_gradients_in_tiles_all_the_same() -> None:
    x, parameters = tokens(), weights()
    function = Counted(swiglu(*parameters))
    with torch.no_grad():
        out = in_tiles(function, x, 4, parameters)
    torch.testing.assert_close(out, function(x), rtol=1e-12, atol=1e-12)
    assert not out.requires_grad


def test_another_type_or_shape_is_refused() -> None:
    with pytest.raises(TypeError, match=r"gives torch.float32 of shape \[1, 4, 6\]"):
        in_tiles(lambda x: x.float(), tokens(), 4, [])
