"""From pydantic's errors to plain language: the place, the key, what was expected, and what was found."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from galore.trainer.common.suggest import nearest
from galore.trainer.recipe.explain.aliases import FIELDS, OPTIMIZERS, VALUES, inverse
from galore.trainer.recipe.explain.fields import FieldInfo, fields, item_schema, parts, words
from galore.trainer.recipe.explain.unknown import without_space
from galore.trainer.recipe.parse.problems import Problem
from galore.trainer.recipe.parse.source import Key, Layer
from galore.trainer.recipe.schema.recipe import Recipe

LONGEST_VALUE = 60
OF_THE_HUB = ("hub", "hf", "repo", "repo_id")  # how a data set is named there, where one is among others
MISSING = {
    "data": "add `data:` with `source: packaged`, or with `source: local` and `path:`",
    "train": "add `train:` with `max_steps:` or `num_train_epochs:`",
}


def validate(layer: Layer, forgiven: set[str]) -> tuple[Recipe | None, list[Problem]]:
    """The recipe, or everything that is wrong with the values.

    Args:
        forgiven: fields that were given under a wrong name, so that nothing is said about them being absent.

    pydantic checks how fields agree only when each is valid by itself. What agrees or not among the *valid* fields is
    worth knowing at once too, so the rest is validated again without the invalid ones.
    """
    values = {section: dict(inner) for section, inner in layer.values.items()}
    problems, bad = _errors_of_fields(values, layer)
    for section, name in (path.split(".") for path in bad):
        values[section].pop(name)
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        absent = forgiven | bad
        problems += [_of_models(each, layer) for each in error.errors() if not _is_about(each, absent)]
        return None, problems
    return (None if bad else recipe), problems


def read_as_meant(layer: Layer) -> None:
    """Reads unquoted numbers as text where a field takes none: `run_name: 12` is "12", and `path: 2024` a folder."""
    for field in fields().values():
        value = layer.values.get(field.section, {}).get(field.name)
        text = layer.place((field.section, field.name)).text
        only_text = field.takes("string") and not field.choices
        if only_text and text is not None and isinstance(value, bool | int | float):
            layer.values[field.section][field.name] = text


def _errors_of_fields(values: Mapping[str, Mapping[str, Any]], layer: Layer) -> tuple[list[Problem], set[str]]:
    bad, inside = {}, dict[str, list[Problem]]()
    try:
        Recipe.model_validate(values)
    except ValidationError as error:
        for each in error.errors():
            path = ".".join(str(part) for part in each["loc"][:2])
            if path in fields() and (each["type"] != "missing" or len(each["loc"]) > 2):
                bad[path] = values[path.split(".")[0]][path.split(".")[1]]
                found = _of_item if item_schema(fields()[path]) else _said
                inside.setdefault(path, []).extend(found(fields()[path], each, layer))
    problems = [inside.get(path) or [_of_field(fields()[path], value, layer)] for path, value in bad.items()]
    return [problem for each in problems for problem in each], set(bad)


def _said(field: FieldInfo, error: ErrorDetails, layer: Layer) -> list[Problem]:
    """What a rule of the field says, or of one item of a list; nothing where the type is wrong."""
    place = tuple(str(part) for part in error["loc"])
    if len(place) == 4 and not place[2].isdecimal():
        place = (
            *place[:2],
            place[3],
        )  # the alternative that pydantic names, of a field that takes several, is left out
    item = len(place) == 3 and place[2].isdecimal() and not error["type"].endswith("_type")
    if not item and error["type"] != "value_error":
        return []
    what = error["msg"].removeprefix("Value error, ")
    return [Problem(layer.place(place), ".".join(place), f"{what}, got {shown(error['input'])}" if item else what)]


def _of_item(field: FieldInfo, error: ErrorDetails, layer: Layer) -> list[Problem]:
    """What is wrong within a mapping, or one of a list of them; nothing where it is no mapping, or no list."""
    place = tuple(str(part) for part in error["loc"])
    size = 3 if field.takes("array") else 2  # parts of the place of the mapping
    if len(place) < size or (size == 3 and not place[2].isdecimal()) or place[2:] == ():
        return _said(field, error, layer)
    schema, item = item_schema(field), ".".join(place[:size])
    if len(place) == size and error["type"] == "value_error":
        return [Problem(layer.place(place), item, error["msg"].removeprefix("Value error, "))]
    if len(place) == size:
        what = f"expected a mapping such as {{{', '.join(f'{name}: …' for name in list(schema)[:3])}}}"
        return [Problem(layer.place(place), item, f"{what}, got {shown(error['input'])}")]
    while place[size + 1 :] and (inner := item_schema(FieldInfo("", "", "", schema.get(place[size], {})))):
        schema, item, size = inner, f"{item}.{place[size]}", size + 1
    name, key = place[size], place[: size + 1]
    if error["type"] == "value_error":
        return [Problem(layer.place(key), ".".join(key), error["msg"].removeprefix("Value error, "))]
    if error["type"] == "extra_forbidden":
        close = [*_also_called(name, schema), *nearest(name, list(schema))]
        fix = without_space(name, schema) or (f"write {close[0]}" if close else f"it takes {', '.join(schema)}")
        return [Problem(layer.place(key), item, f"there is no key `{name}`", fix)]
    if error["type"] == "missing":
        if any(str(given).startswith(f"{name}:") for given in error["input"]):
            return []  # its space after the colon is missing, which is said
        return [
            Problem(layer.place(place[:size]), item, f"the key `{name}` is missing", f"it takes {words(schema[name])}")
        ]
    listed = next((part["items"] for part in parts(schema[name]) if "items" in part), schema[name])
    within = place[size + 1 :] != ()  # an item of a list
    told = f"{'a list, and for each item ' * within}{words(listed if within else schema[name], error['input'])}"
    return [Problem(layer.place(key), ".".join(key), f"expected {told}, got {shown(error['input'])}")]


def _also_called(name: str, schema: Mapping[str, Any]) -> list[str]:
    """The key of an item that others call so: as that of the section is called, of which it is one."""
    if name in OF_THE_HUB:
        return ["name"]
    known = inverse(FIELDS).get(name.lower(), "").rpartition(".")[2]
    return ["name for a data set of the hub, path for files" if known == "path" else known] * (known in schema)


def _of_field(field: FieldInfo, value: Any, layer: Layer) -> Problem:
    place = layer.place((field.section, field.name))
    found = "nothing" if place.text == "" else shown(value, place.text)
    return Problem(place, field.path, f"expected {words(field.schema, value)}, got {found}", _instead(field, value))


SUFFIXES = {"k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9}
WRITTEN = re.compile(r"(\d+(?:\.\d+)?) ?([kmbg])?", re.IGNORECASE)


def _number(field: FieldInfo, word: str) -> str:
    """The number that a person meant by `10k` or `10,000`; "" where it is none."""
    grouped = re.fullmatch(r"\d{1,3}(,\d{3})+", word) is not None
    meant = WRITTEN.fullmatch(word.replace(",", "") if grouped else word)
    if meant is None or not field.takes("integer") or len(word) > LONGEST_VALUE:
        return ""
    number = float(meant[1]) * SUFFIXES.get((meant[2] or "").lower(), 1)
    return f"{number:.0f}" if number.is_integer() else ""


def _instead(field: FieldInfo, value: Any) -> str:
    word = shown(value).strip("'").lower()
    if isinstance(value, str) and (number := _number(field, word)):
        return f"write {number}"
    if known := inverse(VALUES.get(field.path, {})).get(word):
        return f"write {known}"
    if field.path == "data.source" and "/" in word:
        return f"write hub, or local, and {value} as path"
    if field.path == "optim.method" and word in OPTIMIZERS:
        return f"write {OPTIMIZERS[word]}"
    if field.takes("array") and isinstance(value, str) and item_schema(field):
        return f"write [{{path: {value}}}], or [{{name: {value}}}] for a data set of the hub"
    if field.takes("array") and isinstance(value, str):
        return f"write [{value}]"
    if field.takes("object") and re.search(r":(?! )", str(value)):
        return f"write {{{_spaced(value)}}}, with a space after the colon, and in quotes on a command line"
    close = nearest(word, field.choices)
    return f"write {close[0]}" if close else ""


def _spaced(value: Any) -> str:
    """What was meant by `{mlp:0.5}`, which YAML reads as a key without a value, or by `mlp:0.5`, which is text."""
    pairs = value if isinstance(value, Mapping) else {value: None}
    told = (str(name) if each is None else f"{name}: {each}" for name, each in pairs.items())
    return ", ".join(re.sub(r":(?! )", ": ", each) for each in told)


def shown(value: Any, text: str | None = None) -> str:
    """A value as it was written (`text`), or as it would be; text in quotes, cut to a readable length."""
    plain = f"'{value}'" if isinstance(value, str) else text or json.dumps(value, ensure_ascii=False)
    return plain if len(plain) <= LONGEST_VALUE else plain[: LONGEST_VALUE - 1] + "…"


def _is_about(error: ErrorDetails, absent: set[str]) -> bool:
    """Whether an error speaks of a field or section that was given, but wrongly, and so has its own message already."""
    key = ".".join(str(part) for part in error["loc"])
    if key in absent:
        return True
    named = {path.split(".")[-1] for path in absent if not key or path.startswith(f"{key}.")}
    return error["type"] == "value_error" and any(re.search(rf"\b{name}\b", error["msg"]) for name in named)


def _of_models(error: ErrorDetails, layer: Layer) -> Problem:
    """A missing section, or fields that do not agree."""
    key = tuple(str(part) for part in error["loc"])
    if error["type"] == "missing":
        path = ".".join(key)
        what = "this section is missing" if len(key) == 1 else "this key is missing"
        fix = MISSING.get(path) or f"it takes {fields()[path].expected}"
        return Problem(layer.place(key), path, what, fix)
    what = error["msg"].removeprefix("Value error, ")
    place = layer.place(_first_named(what, key, layer))
    return Problem(place, ".".join(key), _as_overrides(what, ".".join(key)) if place.is_override else what)


def _as_overrides(what: str, section: str) -> str:
    """A message about settings in YAML, for one who writes a command line: `source: local` → `data.source=local`."""

    def written(found: re.Match[str]) -> str:
        path = found[1] if "." in found[1] else f"{section}.{found[1]}"
        return f"{path}={found[2]}" if path in fields() else found[0]

    told = re.sub(r"\b(\w+(?:\.\w+)?): ([\w-]+(?:\.\d+)?)", written, what)
    return re.sub(
        r"`(\w+)`", lambda found: f"`{section}.{found[1]}`" if f"{section}.{found[1]}" in fields() else found[0], told
    )


def _first_named(what: str, key: Key, layer: Layer) -> Key:
    """The first field that the message names and an override sets, else one that a file sets; else the section."""
    words = re.findall(r"\w+(?:\.\w+)?", what)
    named = [tuple(word.split(".")) if "." in word else (*key, word) for word in words]
    found = [each for each in named if len(each) > 1 and each in layer.places]
    overridden = [each for each in found if layer.places[each].is_override]
    return next(iter([*overridden, *found]), key)
