"""An error says where, what and what to do; to somebody who called `galore.train` in the words of a call."""

from __future__ import annotations

import pytest

from galore.trainer.common.errors import UserError, described, in_python


def test_an_error_as_text() -> None:
    assert str(UserError("is wrong", where="a.b", fix="mend it")) == "a.b: is wrong\n  → mend it"
    assert str(UserError("is wrong")) == "is wrong"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (UserError("is bad", where="a.txt", fix="mend it"), "a.txt: is bad"),
        (UserError("is bad"), "is bad"),
        (ValueError("two\n  lines"), "ValueError: two lines"),
    ],
)
def test_errors_are_one_line(error: Exception, told: str) -> None:
    assert described(error) == told


@pytest.mark.parametrize(
    ("fix", "told"),
    [
        ("choose another --output-dir", "choose another output_dir"),
        ("add --resume to go on with it", "add resume=True to go on with it"),
        (
            "galore train 'a b'/recipe.yaml --output-dir 'a b' --resume",
            'galore.train("a b/recipe.yaml", output_dir="a b", resume=True)',
        ),
        (
            "go on with galore train r/recipe.yaml train.micro_batch_size=2 --output-dir r --resume, or wait",
            'go on with galore.train("r/recipe.yaml", "train.micro_batch_size=2", output_dir="r", resume=True), or wait',
        ),
        ("galore train 'a b' 'optim.a=[b, c]' --resume", 'galore.train("a b", "optim.a=[b, c]", resume=True)'),
        ("write galore train RECIPE, or add --resume", "write galore train RECIPE, or add resume=True"),
        ("write optim.rank=4", "write optim.rank=4"),
    ],
)
def test_what_to_do_in_python(fix: str, told: str) -> None:
    error = UserError("stopped", where="r", fix=fix)
    assert in_python(error) is error
    assert error.fix == told
