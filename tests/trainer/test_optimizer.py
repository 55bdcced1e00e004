"""From a recipe to the optimizer: every option arrives, and one more declaration is one more option everywhere."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from types import NoneType, SimpleNamespace
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from galore.kernels.family import GroupSettings, Options
from galore.trainer.common.errors import UserError
from galore.trainer.host.attach import outermost_blocks
from galore.trainer.optimizer import build_optimizer, refuse_uneven
from galore.trainer.recipe.load import load_recipe

ALONG = {  # what else has to be said
    "transport": ["optim.residual=columns"],
    "residual": ["optim.inner=muon"],
    "residual_scale": ["optim.residual=columns"],
    "state_dtype": ["optim.inner=sumo"],
    "convention": ["optim.proj_type=svd", "optim.stagger=false"],
    "update": ["optim.refresh=first-micro-batch", "optim.max_grad_norm=null", "train.global_batch_size=8",
               "train.micro_batch_size=8"],
}  # fmt: skip


CHOSEN = {"inner": "racs"}  # the last of them is of whole gradients


def another(option: dataclasses.Field[Any], kind: Any) -> Any:
    """A value that the option does not have by itself."""
    kind = next(each for each in get_args(kind) if each is not NoneType) if NoneType in get_args(kind) else kind
    if get_origin(kind) is Literal:
        return next(each for each in reversed(get_args(kind)) if each != option.default)
    return {bool: False, int: 7, float: 0.5}[kind]


@pytest.mark.parametrize("option", dataclasses.fields(Options), ids=lambda option: option.name)
def test_every_option_of_a_recipe_arrives(option: dataclasses.Field[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    name, seen = option.name, []
    value = CHOSEN.get(name) or another(option, get_type_hints(Options)[name])
    monkeypatch.setattr("galore.trainer.optim.galore.build_slots", lambda *given: seen.append(given) or {})
    overrides = [f"optim.{name}={str(value).lower()}", "optim.target_modules=[target]", *ALONG.get(name, [])]
    optim = load_recipe("demo", overrides).recipe.optim
    build_optimizer(nn.ModuleDict({"target": nn.Linear(8, 6)}), optim, accumulation=1, seed=0)
    ((groups, _, settings, *_),) = seen
    of_group = name in {each.name for each in dataclasses.fields(GroupSettings)}
    assert (groups[0][name] if of_group else getattr(settings, name)) == value
    assert option.default != value


ONE_MORE = """
import importlib.util, sys
import galore.kernels
found = importlib.util.find_spec("galore.kernels.family")
source = open(found.origin).read()
before = "    convention: Convention = option("
assert source.count(before) == 1
declared = '    example: int = option(3, "An example; null of it there is not", gt=0, le=9)\\n'
module = importlib.util.module_from_spec(found)
sys.modules[found.name] = module
exec(compile(source.replace(before, declared + before), found.origin, "exec"), vars(module))

from torch import nn
from galore.trainer.optim import GaLoreAdamW, galore_groups
from galore.trainer.optimizer import build_optimizer
from galore.trainer.recipe.explain.fields import schema_text
from galore.trainer.recipe.load import load_recipe
from galore.trainer.recipe.parse.problems import RecipeError

net = nn.ModuleDict({"target": nn.Linear(8, 6)})
loaded = load_recipe("demo", ["optim.example=5", "optim.target_modules=[target]"])
assert "# An example; null of it there is not. An integer > 0.\\n  example: 5" in loaded.text
assert '"description": "An example; null' in schema_text()
optimizer = build_optimizer(net, loaded.recipe.optim, accumulation=1, seed=0)
assert [group["example"] for group in optimizer.param_groups] == [5] * len(optimizer.param_groups)
assert [slot.group["example"] for slot in optimizer.projected] == [5]
groups = galore_groups(net, 2, targets=["target"], example=7)
assert [slot.group["example"] for slot in GaLoreAdamW(groups, example=2).slots.values()] == [7, 2]
assert optimizer.state_dict()["param_groups"][0]["example"] == 5
assert "example: An example; None of it there is not." in GaLoreAdamW.__init__.__doc__
for wrong in (lambda: GaLoreAdamW(groups, example=0), lambda: load_recipe("demo", ["optim.example=10"])):
    try:
        wrong()
    except (ValueError, RecipeError) as error:
        print(error)
"""


def test_one_more_declaration_is_an_option_everywhere() -> None:
    """Of the recipe with its text and schema, of the constructor with its help, of a group; checked in each."""
    run = subprocess.run([sys.executable, "-c", ONE_MORE], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert "example=0 in group 1 (target.bias …): it has to be a whole number above 0 up to 9" in run.stdout
    assert "optim.example: expected an integer > 0 and ≤ 9, got 10" in run.stdout


class Block(GradientCheckpointingLayer):  # type: ignore[misc]
    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)


def test_what_several_blocks_have_in_common_is_cut_into_no_parts() -> None:
    plain: Any = SimpleNamespace(projected=[])
    inner, shared = Block(nn.Linear(2, 2)), nn.Linear(2, 2)
    apart = nn.Sequential(Block(nn.Linear(2, 2), inner), Block(nn.Linear(2, 2)))
    assert outermost_blocks(apart) == [*apart]
    refuse_uneven(apart, plain, 2)
    with pytest.raises(UserError, match=r"several blocks of Sequential have 0\.parts\.1\.weight in common"):
        refuse_uneven(nn.Sequential(Block(nn.Linear(2, 2), shared), Block(shared)), plain, 2)
