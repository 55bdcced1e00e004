from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from galore.trainer.checkpoint.tensors import refuse_different, refuse_unlike, tensor_names
from galore.trainer.common.errors import UserError


class Tied(nn.Module):
    """Two names for one weight, a buffer that is stored and one that is not."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed, self.head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("mean", torch.randn(2))
        self.register_buffer("angles", torch.arange(4.0), persistent=False)


def stored(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_names_of_what_is_stored() -> None:
    assert tensor_names(Tied()) == [["mean"], ["embed.weight", "head.weight"]]


@pytest.mark.parametrize("left_out", [(), ("head.weight",), ("embed.weight",)])
def test_one_name_of_a_tied_weight_will_do(left_out: tuple[str, ...]) -> None:
    tensors = stored(Tied())
    refuse_unlike(Tied(), {name: tensor for name, tensor in tensors.items() if name not in left_out})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("mean"), "mean is missing"),
        (lambda t: (t.pop("embed.weight"), t.pop("head.weight")), "embed.weight is missing"),
        (lambda t: t.update(more=torch.ones(1)), "more is not in the model"),
        (lambda t: t.update(mean=torch.ones(3)), r"mean is \(3,\), the model has \(2,\)"),
        (lambda t: t["head.weight"].add_(1), "embed.weight and head.weight are one parameter, and differ"),
        (lambda t: t.update({"head.weight": t["head.weight"].half()}), "are one parameter, and differ"),
    ],
)
def test_what_does_not_fit_is_named(change: Callable[[dict[str, Tensor]], object], message: str) -> None:
    tensors = stored(Tied())
    change(tensors)
    with pytest.raises(UserError, match=message):
        refuse_unlike(Tied(), tensors)


def test_values_and_what_is_not_stored_are_compared_too() -> None:
    refuse_different(Tied(), Tied())
    with pytest.raises(UserError, match=r"other values: mean, embed\.weight"):
        refuse_different(Tied(0), Tied(1))
    other = Tied()
    other.angles += 1
    with pytest.raises(UserError, match="other values: angles"):
        refuse_different(Tied(), other)


def test_a_nan_is_the_same_as_another() -> None:
    one, other = Tied(), Tied()
    with torch.no_grad():
        one.embed.weight[1] = other.embed.weight[1] = float("nan")
    refuse_different(one, other)
    with torch.no_grad():
        other.embed.weight[2] = 0.0
    with pytest.raises(UserError, match=r"other values: embed\.weight"):
        refuse_different(one, other)
