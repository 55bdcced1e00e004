"""One table of methods: both verbs take all of it and say what each is, and the line of a run's header names it."""

from __future__ import annotations

import inspect
from typing import Any, get_args

import pytest

from galore.cli.verbs.compare import compare
from galore.cli.verbs.finetune_glue import finetune_glue
from galore.kernels.family import InnerRule
from galore.trainer.common.errors import UserError
from galore.trainer.recipe.load import load_recipe
from galore.trainer.recipe.methods import METHODS, described, named
from galore.trainer.recipe.shipped import is_shipped


def help_of(verb: Any, option: str) -> str:
    kinds = get_args(inspect.get_annotations(verb, eval_str=True)[option])
    return str(kinds[1].help)


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda each: each.name)
def test_both_verbs_say_what_a_method_is(method: Any) -> None:
    said = f"{method.name} ({method.help})"
    assert said in help_of(compare, "methods")
    assert said in help_of(finetune_glue, "method")


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda each: each.name)
def test_a_recipe_is_known_by_its_settings(method: Any) -> None:
    optim = load_recipe("demo", method.settings).recipe.optim
    assert named(optim) is method


def test_a_recipe_of_its_own_is_shipped_and_is_that_method() -> None:
    for method in METHODS.values():
        if method.glue is not None:
            assert is_shipped(method.glue)
            optim = load_recipe(method.glue).recipe.optim
            own = dict(each.removeprefix("optim.").split("=") for each in method.settings)
            assert (optim.method, optim.residual) == (own["method"], own.get("residual", "none"))


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            [],
            "GaLore r=128, α=0.25, T=50, randomized, refresh delayed, staggered, update accumulate, moments rotate, float32 states",
        ),
        (
            ["optim.method=full", "optim.scale=null"],
            "full-rank AdamW, factor 1.0 on the target matrices, float32 states",
        ),
        (
            ["optim.method=lora", "optim.adapter=relora", "optim.scale=null"],
            "ReLoRA r=128, α=32.0, merged every quarter of the run, float32 states",
        ),
    ],
)
def test_the_line_of_the_header(settings: list[str], line: str) -> None:
    assert described(load_recipe("demo", ["optim.rank=128", *settings]).recipe.optim) == line


@pytest.mark.parametrize("inner", get_args(InnerRule))
def test_every_rule_that_full_rank_may_have_has_a_line(inner: str) -> None:
    try:
        optim = load_recipe("demo", ["optim.method=full", f"optim.inner={inner}", "optim.scale=null"]).recipe.optim
    except UserError:
        return
    assert inner.split("-")[0] in described(optim).lower()
