"""Long sequences of a model: positions are scaled as a recipe says, and what does not fit is one error."""

from __future__ import annotations

from pathlib import Path

import pytest

from galore.trainer.common.errors import UserError
from galore.trainer.recipe.load import load_recipe
from galore.trainer.trained.longcontext.evaluation import Asked, evaluate_long


def test_passkeys_take_positions_of_the_recipe(trained: tuple[Path, Path]) -> None:
    with pytest.raises(UserError, match="600 tokens do not fit the model's 16 positions"):
        evaluate_long(str(trained[0]), None, Asked((600,), 1))
    loaded = load_recipe(str(trained[1]), ["model.rope={type: yarn, factor: 40}"])
    scored = evaluate_long(str(trained[0]), loaded, Asked((600,), 1))
    assert (scored.passkey[0]["asked"], scored.by_position, scored.step) == (5, [], None)
