"""What a run that has no room is told to do is something that it can do."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from galore.trainer import shortage
from galore.trainer.recipe.load import load_recipe
from galore.trainer.record.rundir import RunDir


@pytest.mark.parametrize(
    ("overrides", "router", "resumes"),
    [
        ((), None, True),
        (("eval.mode=paper", "train.micro_batch_size=16"), None, True),
        (("optim.refresh=first-micro-batch",), None, False),
        ((), "a router's loss", False),
    ],
)
def test_without_a_card_another_micro_batch_is_advised_where_it_computes_the_same(
    tmp_path: Path, overrides: tuple[str, ...], router: Any, resumes: bool
) -> None:
    recipe = load_recipe("demo", list(overrides)).recipe
    run: Any = SimpleNamespace(directory=RunDir(tmp_path), recipe=recipe, router=router, device=torch.device("cpu"))
    said = shortage._remedy(run)
    assert ("and resume" in said) == resumes
    assert ("start anew" in said) != resumes
    assert ("resume with eval.micro_batch_size=16" in said) == ("eval.mode=paper" in overrides)
