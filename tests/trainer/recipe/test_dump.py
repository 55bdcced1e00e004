"""A recipe without sections, for those who take none. As YAML it is read back where recipes are loaded."""

from __future__ import annotations

from galore.trainer.recipe.dump import dotted


def test_dotted_keys() -> None:
    values = {"optim": {"rank": 8, "target_modules": ["ä"], "betas": {"one": None}}, "name": "x"}
    told = {"optim.rank": "8", "optim.target_modules": '["ä"]', "optim.betas.one": "null", "name": "x"}
    assert dict(dotted(values)) == told
