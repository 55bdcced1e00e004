"""Section extra_loss: which keys go together, and that every loss of the table has its name there."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from galore.trainer.losses.build import LOSSES
from galore.trainer.recipe.schema.extraloss import ATTENTION, DISTILLATION, ExtraLossSection


def test_every_loss_has_its_name() -> None:
    assert set(LOSSES) == {DISTILLATION, ATTENTION}
    text = str(ExtraLossSection.model_fields["name"].description)
    assert all(name in text for name in LOSSES)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": DISTILLATION}, "set teacher to its folder"),
        ({"teacher": "t"}, "teacher goes with name"),
        ({"name": ATTENTION, "top_k": 3}, "top_k goes with name"),
        ({"name": ATTENTION, "temperature": 2.0}, "temperature goes with name"),
        ({"layers": [0]}, "say which loss"),
        ({"name": ATTENTION, "layers": []}, "at least 1 item"),
        ({"name": ATTENTION, "weight": -0.1}, "greater than or equal to 0"),
    ],
)
def test_contradictions(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ExtraLossSection.model_validate(values)


def test_one_that_counts_0_or_has_no_name_is_off() -> None:
    assert not ExtraLossSection().is_on
    assert not ExtraLossSection(name=ATTENTION, weight=0.0).is_on
    assert ExtraLossSection(name=ATTENTION).is_on
