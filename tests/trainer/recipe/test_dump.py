"""A recipe without sections, for those who take none. As YAML it is read back where recipes are loaded."""

from __future__ import annotations

from galore.trainer.recipe.dump import dotted
from galore.trainer.recipe.parse.syntax import dump_value


def test_dotted_keys() -> None:
    values = {"optim": {"rank": 8, "target_modules": ["ä"], "betas": {"one": None}}, "name": "x"}
    told = {"optim.rank": "8", "optim.target_modules": '["ä"]', "optim.betas.one": "null", "name": "x"}
    assert dict(dotted(values)) == told


def test_equal_keys_of_python_are_written_as_what_they_are() -> None:
    values = [1, True, 1.0, 0, False, -0.0, None, 1]
    assert [dump_value(each) for each in values] == ["1", "true", "1.0", "0", "false", "-0.0", "null", "1"]
