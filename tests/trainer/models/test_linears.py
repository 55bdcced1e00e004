from __future__ import annotations

import pytest
import torch
from torch import nn

from galore.trainer.common.errors import UserError
from galore.trainer.models.linears import int8_linears, left_alone, plain_linears
from galore.trainer.optim.int8_linear import to_int8


class Router(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).softmax(-1)


def network() -> nn.Module:
    model = nn.ModuleDict({"mlp": nn.ModuleDict({"up": nn.Linear(4, 8), "router": Router(4, 2)})})
    to_int8(model["mlp"].register_module("down", nn.Linear(64, 4)) or model["mlp"].down)  # type: ignore[union-attr]
    return model


def test_a_layer_that_computes_more_than_a_product_is_left_alone_and_said() -> None:
    model = network()
    assert list(plain_linears(model, ["mlp"])) == ["mlp.up", "mlp.down"]
    (line,) = left_alone(model, ["mlp"])
    assert "mlp.router (Router)" in line
    assert left_alone(model, ["up"]) == []
    with pytest.raises(UserError, match=r"'router' matches mlp\.router \(Router\)") as refused:
        plain_linears(model, ["up", "router"])
    assert refused.value.fix == "leave router out"


def test_a_pattern_without_a_layer_is_refused() -> None:
    with pytest.raises(UserError, match=r"'upp' matches no linear layer; did you mean up\?"):
        plain_linears(network(), ["upp"])


def test_a_weight_that_two_modules_share_is_not_for_8_bits() -> None:
    model = nn.ModuleDict({name: nn.Linear(4, 4) for name in ("one", "two", "three")})
    model["two"].weight = model["one"].weight
    model["alias"] = model["three"]  # one module by two names shares nothing
    assert int8_linears(model, ["three"]) == [model["three"]]
    with pytest.raises(
        UserError, match="two shares its weight with one, and codes in int8 cannot be shared"
    ) as refused:
        int8_linears(model, ["two", "three"])
    assert refused.value.where == "optim.target_modules"
    assert "optim.weight_dtype" in (refused.value.fix or "")
