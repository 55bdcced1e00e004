"""The YAML that recipes speak: the core schema of YAML 1.2, without anchors, tags or duplicate keys.

PyYAML follows YAML 1.1, where `1e-3` is a string, `on` a boolean, `010` eight and `12:30` the number 750. Here `1e-3`
is a number and only `true` and `false` are booleans; what looks like neither a number, a boolean nor null is text.
"""

from __future__ import annotations

import functools
import math
import re
from typing import Any

import yaml

TAG = "tag:yaml.org,2002:"
LONGEST_NUMBER = 400  # letters; float64 ends at 1e308
PATTERNS = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?[0-9][0-9_]*|0x[0-9a-fA-F]+|0o[0-7]+", list("-+0123456789")),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
}


class RecipeLoader(yaml.SafeLoader):
    """Composes nodes with YAML 1.2 types; refuses anchors, which recipes do not need and which can explode in size."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own way to declare them

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(
                None, None, "anchors and aliases are not used in recipes: write the value out", event.start_mark
            )
        return super().compose_node(parent, index)


class RecipeDumper(yaml.SafeDumper):
    """Quotes exactly the strings that RecipeLoader would read as something else."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """The node of a string, in quotes with escapes where it has a line end that is none in every style."""
    style = '"' if re.search("[\x85\u2028\u2029]", text) else None
    return dumper.represent_scalar(f"{TAG}str", text, style=style)


RecipeDumper.add_representer(str, _represent_text)

for name, (pattern, first) in PATTERNS.items():
    for dialect in (RecipeLoader, RecipeDumper):
        dialect.add_implicit_resolver(TAG + name, re.compile(rf"^(?:{pattern})$"), first)


def scalar(node: yaml.ScalarNode) -> Any:
    """The value of a scalar node. Raises ValueError for a tag that recipes do not know."""
    text: str = node.value
    match node.tag.removeprefix(TAG):
        case "str":
            return text
        case "null":
            return None
        case "bool":
            return text.lower() == "true"
        case "int":
            if len(text) > LONGEST_NUMBER:  # beyond every limit, and Python refuses to write it out again
                return -math.inf if text.startswith("-") else math.inf
            return int(text, 0) if text[:2] in ("0x", "0o") else int(text)
        case "float":
            return float(re.sub(r"\.(inf|nan)$", r"\1", text.lower()))
    raise ValueError(f"the tag {node.tag} is not used in recipes")


def dump_value(value: Any) -> str:
    """One line of YAML that RecipeLoader reads back as `value`."""
    return _dumped_once(value) if value is None or isinstance(value, int) else _dumped(value)


def _dumped(value: Any) -> str:
    text: str = yaml.dump(value, Dumper=RecipeDumper, default_flow_style=True, width=10**9, allow_unicode=True)
    return text.removesuffix("...\n").rstrip("\n")


_dumped_once = functools.lru_cache(typed=True)(_dumped)
