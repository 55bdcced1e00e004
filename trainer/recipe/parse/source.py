"""Reading one YAML text into values and the place of each of them."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from galore.trainer.common.reading import NotReadable, read_bounded
from galore.trainer.recipe.parse.problems import MOST_TOLD, Place, Problem, RecipeError
from galore.trainer.recipe.parse.syntax import RecipeLoader, scalar

Key = tuple[str, ...]
UNWRITABLE = re.compile("[\0\ud800-\udfff]")  # no path, no text of a file; YAML can spell them: "\\0", "\\ud800"
LARGEST_RECIPE_BYTES = 1_000_000
LARGEST_RESOLVED_BYTES = 16_000_000  # of one that galore wrote: with absolute paths, and all defaults
MOST_VALUES = 10_000  # lines and commas; each takes a tenth of a millisecond


@dataclass
class Layer:
    """What one file (or the command line) says: nested values, and where each key stands.

    Attributes:
        file: the one that was read, without links; None for the command line.
        left_out: what layers said that a layer above them overruled, in words.
    """

    origin: str
    directory: Path
    values: dict[str, Any] = field(default_factory=dict)
    places: dict[Key, Place] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    file: Path | None = None
    left_out: list[str] = field(default_factory=list)

    @property
    def is_told(self) -> bool:
        """Whether one more problem is told, or only counted."""
        return len(self.problems) < MOST_TOLD

    def place(self, key: Key) -> Place:
        """The place of `key`, or of the section around it, or of the file."""
        while key and key not in self.places:
            key = key[:-1]
        return self.places.get(key) or Place(self.origin, 1, 1, None, self.directory)

    def report(self, key: Key, what: str, fix: str = "") -> None:
        self.problems.append(Problem(self.place(key), ".".join(key), what, fix))


def read_layer(path: Path, origin: str, directory: Path) -> Layer:
    """One recipe file. Raises RecipeError for a folder, a binary file, or what is not YAML."""
    text = read_text(path, origin)
    require_few_values(text, origin)
    layer = parse(text, origin, directory)
    layer.file = Path(os.path.realpath(path))
    return layer


def require_few_values(text: str, origin: str) -> None:
    """Raises RecipeError for a text that would take seconds to compose."""
    if text.count(",") + text.count("\n") > MOST_VALUES:
        what = f"has more than {MOST_VALUES:,} lines and values"
        raise _refusal(origin, what, "a recipe has some hundred; for many files name a folder or a glob")


def read_text(path: Path, origin: str, limit: int = LARGEST_RECIPE_BYTES) -> str:
    """The text of a recipe file, which is UTF-8 and has no more than `limit` bytes."""
    if path.is_dir():
        found = sorted(str(each) for each in path.glob("*.y*ml"))
        raise _refusal(
            origin, "is a folder, not a recipe", f"name a file in it: {', '.join(found[:5])}" if found else ""
        )
    try:
        text = read_bounded(path, limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        what = f"is not a text file: byte {error.object[error.start]:#04x} at {error.start} is not UTF-8"
        raise _refusal(origin, what) from None
    except NotReadable as error:
        raise _refusal(origin, f"{error.strerror}: a recipe is a file of a few kilobytes of YAML") from None
    except OSError as error:
        raise _refusal(origin, f"cannot be read: {error.strerror}") from None
    if "\0" in text:
        raise _refusal(origin, "is not a text file: it contains NUL bytes")
    return text


def _refusal(origin: str, what: str, fix: str = "") -> RecipeError:
    return RecipeError(origin, [Problem(Place(origin), "", what, fix)])


def parse(text: str, origin: str, directory: Path) -> Layer:
    """Values and places of one YAML document. Raises RecipeError where the YAML itself is broken."""
    layer = Layer(origin, directory)
    node = compose(text, origin)
    if node is None:
        raise _refusal(origin, "is empty", "start from `galore recipes copy demo FILE`")
    if not isinstance(node, yaml.MappingNode):
        raise _refusal(
            origin, "is not a recipe: it must consist of sections, such as `train:` with `max_steps: 100` below"
        )
    layer.values = _mapping(node, (), layer)
    return layer


def compose(text: str, origin: str) -> yaml.Node | None:
    """The YAML node tree, every node with its line and column."""
    try:
        node: yaml.Node | None = yaml.compose(text, Loader=RecipeLoader)
    except RecursionError:
        raise _refusal(origin, "is nested too deeply") from None
    except yaml.MarkedYAMLError as error:
        raise RecipeError(origin, [_syntax_problem(error, origin)]) from None
    except yaml.YAMLError as error:
        raise _refusal(origin, f"is not YAML: {error}") from None
    return node


def _syntax_problem(error: yaml.MarkedYAMLError, origin: str) -> Problem:
    mark = error.problem_mark
    place = Place(origin, mark.line + 1, mark.column + 1) if mark else Place(origin)
    what = error.problem or str(error)
    if "'\\t'" in what:
        return Problem(place, "", "a tab is used for indentation", "indent with spaces")
    if "mapping values are not allowed" in what:
        return Problem(
            place, "", "a colon is not expected here", "check the indentation, or quote text that contains `: `"
        )
    fix = f"{error.context}, which starts in line {error.context_mark.line + 1}" if error.context_mark else ""
    return Problem(place, "", f"this is not valid YAML: {what}", fix)


def _place(node: yaml.Node, layer: Layer, text: str | None = None) -> Place:
    return Place(layer.origin, node.start_mark.line + 1, node.start_mark.column + 1, text, layer.directory)


def _mapping(node: yaml.MappingNode, above: Key, layer: Layer) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        place = _place(key_node, layer, value_node.value if isinstance(value_node, yaml.ScalarNode) else None)
        if not isinstance(key_node, yaml.ScalarNode) or UNWRITABLE.search(key_node.value):
            layer.problems.append(Problem(place, ".".join(above), "a key must be a plain word"))
            continue
        key = (*above, key_node.value)
        if key in layer.places:
            what = f"written twice, first in line {layer.places[key].line}"
            layer.problems.append(Problem(place, ".".join(key), what, "remove one of the two"))
            continue
        layer.places[key] = place
        values[key_node.value] = value_of(value_node, key, layer)
    return values


def value_of(node: yaml.Node, key: Key, layer: Layer) -> Any:
    """The Python value of a node; what cannot be one is noted as a problem of the layer."""
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, key, layer)
    if isinstance(node, yaml.SequenceNode):
        return [value_of(each, (*key, str(number)), layer) for number, each in enumerate(node.value)]
    assert isinstance(node, yaml.ScalarNode)
    if UNWRITABLE.search(node.value):
        layer.report(key, "contains a NUL byte, or half of a character", "write it without")
        return None
    try:
        return scalar(node)
    except ValueError as error:
        layer.report(key, str(error))
        return None
