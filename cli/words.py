"""What verbs are made of, and how they read the words of a command line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise, takewhile
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from galore.trainer.common.errors import UserError


def without_values(parameters: list[Any]) -> list[Any]:
    """The parameters of a verb, flags among them shown without a type, as none follows them."""
    for each in parameters:
        if getattr(each, "is_flag", False) and each.metavar is None:
            each.metavar = ""
    return parameters


class Verb(TyperCommand):
    """What every verb is made of."""

    def get_params(self, ctx: Any) -> list[Any]:
        return without_values(super().get_params(ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            tell_value(error, given)
            raise


def tell_value(error: typer.BadParameter, args: list[str]) -> None:
    """Adds to `error` the value among `args` that it is about, which some releases of typer leave out."""
    error.message = error.message.removeprefix("Value error, ")
    names = getattr(error.param, "opts", ())
    given = [value for name, value in _given(takewhile(lambda each: each != "--", args)) if name in names]
    if given and given[-1] and not any(value in error.message for value in given):
        error.message = f"{error.message.rstrip('.')}, got {given[-1]!r}"


def _given(args: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Each word up to an equals sign, and what stands behind that, or the next word."""
    for word, following in pairwise([*args, ""]):
        name, equals, value = word.partition("=")
        yield name, value if equals else following


class VerbGroup(TyperGroup):
    """Verbs below one name."""

    def get_params(self, ctx: Any) -> list[Any]:
        return without_values(super().get_params(ctx))


class RecipeVerb(Verb):
    """A verb that takes a recipe and overrides, and knows a key of the recipe when it is given like an option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        options = {
            "--",
            *ctx.help_option_names,
            *(name for each in self.params for name in each.opts + each.secondary_opts),
        }
        near = {_letters(each) for each in options if each.startswith("-")}
        for name, value in _given(args):
            known = name in options or _letters(name) in near  # a near miss is click's to tell
            if name.startswith("--") and not known and not ctx.resilient_parsing:
                _refuse_key(name, value, ctx.command_path)
        return super().parse_args(ctx, args)


def _letters(option: str) -> str:
    return option.replace("-", "").replace("_", "")


RECIPE_OPTIONS = ("config", "config-file", "config-name", "cfg", "recipe", "recipe-file", "yaml")  # as others call it


def _refuse_key(option: str, value: str, command: str) -> None:
    """Raise UserError for what is no option, where it is known what was meant; the rest is click's to tell."""
    from galore.trainer.recipe.explain.unknown import advice_on, setting_called

    name = option.removeprefix("--")
    given = "" if value.startswith("--") or "=" in value else value
    if name.replace("_", "-") in RECIPE_OPTIONS:
        what = "is no option: the recipe is an argument"
        raise UserError(what, where=option, fix=f"write {command} {given or 'RECIPE'}")
    path, implied = setting_called(name)
    if path:
        what = "is no option but a key of the recipe"
        raise UserError(what, where=option, fix=f"write {path}={implied or given or '…'}")
    if told := advice_on(name):
        raise UserError("is no option", where=option, fix=told)
