"""What other toolkits say of APOLLO is what their code does with it: the root of the scale multiplies an update."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from galore.trainer.recipe.convert.apollo import Apollo


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, ("apollo", 16, 5.65685)),
        ({"a.scale": 4.0, "a.rank": 64}, ("apollo", 64, 2.0)),
        ({"a.scale": 128, "a.scale_type": "tensor"}, ("apollo-mini", 16, 1.0)),
        ({"a.scale": 32, "a.scale_type": "tensor"}, ("apollo-mini", 16, 0.5)),
        ({"scale": 9.0, "a.scale_type": "channel"}, ("apollo", 16, 5.65685)),
    ],
)
def test_settings_are_those_of_its_code(said: dict[str, Any], expected: tuple[str, int, float]) -> None:
    draft: Any = SimpleNamespace(values=said)
    found = Apollo("a.", rank=16, scale=32.0, scale_type="channel").settings(draft)
    assert tuple(found[f"optim.{key}"] for key in ("residual", "rank", "scale")) == expected
    assert (found["optim.method"], found["optim.proj_type"]) == ("galore", "random")
