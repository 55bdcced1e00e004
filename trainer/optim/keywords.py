"""A constructor's keywords and manual, made of the fields of a dataclass."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import textwrap
from collections.abc import Callable, Iterable
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

P = ParamSpec("P")
S = TypeVar("S")
WIDTH = 112
PYTHON = {"null": "None", "true": "True", "false": "False"}  # what descriptions say as recipes do


def taking(
    settings: Callable[P, S],
) -> Callable[[Callable[[Any, Iterable[Any], S], None]], Callable[Concatenate[Any, Iterable[Any], P], None]]:
    """Let an `__init__` written for (params, settings) take the fields of the dataclass `settings` as its own keywords.

    To type checkers and editors they are its parameters, to `help` and `inspect` too.
    """

    def decorate(init: Callable[[Any, Iterable[Any], S], None]) -> Callable[Concatenate[Any, Iterable[Any], P], None]:
        @functools.wraps(init)
        def constructor(self: Any, params: Iterable[Any], *args: P.args, **keywords: P.kwargs) -> None:
            try:
                made = settings(*args, **keywords)
            except TypeError as error:
                said = str(error).replace(f"{cast(Any, settings).__name__}.__init__()", f"{owner}()")
                near = difflib.get_close_matches(said.split("'")[1] if "'" in said else "", known, n=1)
                raise TypeError(said + (f": did you mean {near[0]!r}?" if near else "")) from None
            init(self, params, made)

        owner, known = init.__qualname__.partition(".")[0], [each.name for each in _parameters(settings)]
        first = list(inspect.signature(init).parameters.values())[:2]
        vars(constructor)["__signature__"] = inspect.Signature([*first, *_parameters(settings)], return_annotation=None)
        constructor.__doc__ = f"{inspect.cleandoc(init.__doc__ or '')}\n\nArgs:\n{manual(settings)}"
        return constructor  # type: ignore[return-value]  # whose params may be given by name as well

    return decorate


def manual(settings: Callable[..., Any]) -> str:
    """A paragraph for each field of a dataclass."""
    fields = {each.name: each for each in dataclasses.fields(cast(Any, settings))}
    return "\n".join(_paragraph(fields[each.name]) for each in _parameters(settings))


def _parameters(settings: Callable[..., Any]) -> list[inspect.Parameter]:
    return list(inspect.signature(settings).parameters.values())


def _paragraph(field: dataclasses.Field[Any]) -> str:
    said = " ".join(PYTHON.get(word, word) for word in field.metadata["description"].split())
    return textwrap.fill(f"{field.name}: {said}.", WIDTH, initial_indent="    ", subsequent_indent=" " * 8)
