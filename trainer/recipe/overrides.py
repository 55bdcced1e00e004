"""`section.key=value` from the command line, as one more layer on top of the file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from galore.trainer.common.printable import shortened
from galore.trainer.recipe.explain.fields import fields, item_schema
from galore.trainer.recipe.explain.unknown import what_was_meant
from galore.trainer.recipe.parse.problems import Place, Problem, RecipeError
from galore.trainer.recipe.parse.source import Key, Layer, compose, require_few_values, value_of

LONGEST_TOLD = 300  # letters of one in a message


def parse_overrides(overrides: Sequence[str]) -> Layer:
    """All overrides as a layer; values are YAML scalars or flow lists; of two for one key the later wins.

    Relative paths in them are relative to the working directory, as anything else on a command line.
    """
    layer = Layer("command line", Path.cwd())
    for text in overrides:
        path, equals, raw = (part.strip() for part in text.partition("="))
        place = Place(f"override `{shortened(text, LONGEST_TOLD)}`", text=raw, directory=layer.directory)
        if problem := _refused(path, equals, raw, place, layer.is_told):
            layer.problems.append(problem)
            continue
        key = tuple(path.split("."))
        layer.values.setdefault(key[0], {})[key[1]] = _value(raw, key, place, layer)
        layer.places[key] = place
        layer.places.setdefault(key[:1], place)
    return layer


def _refused(path: str, equals: str, raw: str, place: Place, guess: bool) -> Problem | None:
    if not equals:
        return Problem(place, "", "is not of the form section.key=value", "for example optim.rank=256")
    if not raw:
        field = fields().get(path)
        empty = f"write {path}=null for an empty value" if field is None or field.takes("null") else ""
        return Problem(place, "", "has no value", empty or f"it takes {fields()[path].expected}")
    if path in fields():
        return None
    if path == "extends":
        return Problem(place, "", "`extends` belongs in a file", "name the other recipe on the command line instead")
    whole, _, inner = path.rpartition(".")
    if whole in fields() and item_schema(fields()[whole]):
        return Problem(
            place, "", f"there is no key `{path}`", f"write the whole mapping: {whole}={{…, {inner}: {raw}}}"
        )
    meant = what_was_meant(path.rsplit(".", 1)[-1], path.split(".")[0], raw, guess=guess)
    fix = meant.hint or (f"write {meant.target}={raw}" if meant.target else "")
    return Problem(place, "", f"there is no key `{path}`", fix)


def _value(raw: str, key: Key, place: Place, layer: Layer) -> Any:
    if raw.startswith("*"):  # a glob: there is no anchor that an alias of YAML could name
        return raw
    read = Layer(place.source, layer.directory)
    read.places[key] = place
    try:
        require_few_values(raw, place.source)
        node = compose(raw, place.source)
    except RecipeError as error:
        layer.problems += [Problem(place, "", each.what, each.fix) for each in error.problems]
        return None
    value = value_of(node, key, read) if node else None
    layer.problems += read.problems
    return value
