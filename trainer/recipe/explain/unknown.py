"""Keys that no recipe has: found before validation, each answered with what was meant."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from galore.trainer.common.suggest import distance, nearest, plain
from galore.trainer.recipe.explain.aliases import ADVICE, FIELDS, OPTIMIZERS, SECTIONS, VALUES, inverse
from galore.trainer.recipe.explain.apart import APART
from galore.trainer.recipe.explain.fields import FieldInfo, fields, section_fields, sections, sections_with
from galore.trainer.recipe.parse.source import Key, Layer

ALL_SECTIONS = f"the sections are {', '.join(sections())}"
ALIASES = inverse(FIELDS) | inverse(ADVICE) | inverse(APART)
CALLED = {plain(name): meaning for name, meaning in ALIASES.items()}
SECTION_CALLED = inverse(SECTIONS)
OPTIMIZER_CALLED = {plain(name): told for name, told in OPTIMIZERS.items()}
SURELY_TOKENS = 1 << 15  # no step has as many sequences; nanochat's total_batch_size is in tokens


@dataclass(frozen=True)
class Meant:
    """What a user meant by an unknown key: a field (`target`), or a `hint` in words where there is none."""

    target: str = ""
    hint: str = ""


def take_unknown(layer: Layer) -> set[str]:
    """Moves every unknown key out of `layer.values` into `layer.problems`.

    A section by another name (`training:`) is reported and then read as the section it stands for, so that its keys are
    checked too. Returns the fields that the unknown keys stood for, and sections that
    are no mappings: nobody should call these missing.
    """
    meant = set()
    for name in [each for each in layer.values if each not in sections()]:
        meant |= _take_top(layer, name, layer.values.pop(name))
    for section in [each for each in sections() if each in layer.values]:
        values = layer.values[section]
        if values is None:
            layer.values[section] = {}  # `eval:` with nothing below it
        elif isinstance(values, Mapping):
            meant |= _take_inner(layer, section)
        else:
            layer.report((section,), "is a section, it cannot have a value of its own", _below(section, values))
            meant |= {section, *(f"{section}.{name}" for name in section_fields(section))}
            del layer.values[section]
    return meant


def _take_top(layer: Layer, name: str, value: Any) -> set[str]:
    """One key that stands where only sections may."""
    known_key = name.lower() not in SECTION_CALLED and (plain(name) in CALLED or sections_with(name))
    if not isinstance(value, Mapping) or known_key:
        return _report(layer, (name,), what_was_meant(name, "", value, guess=layer.is_told))
    close = nearest(name, sections()) if layer.is_told else []
    section = SECTION_CALLED.get(name.lower()) or next(iter(close), "")
    layer.report((name,), "unknown section", f"it is called `{section}`" if section else ALL_SECTIONS)
    if section and isinstance(layer.values.get(section), Mapping | None):
        layer.values[section] = {**value, **(layer.values.get(section) or {})}
        layer.places = {
            (section, *key[1:]): place for key, place in layer.places.items() if key[0] == name
        } | layer.places
    return set()


def _take_inner(layer: Layer, section: str) -> set[str]:
    meant = set()
    for name in [each for each in layer.values[section] if f"{section}.{each}" not in fields()]:
        value = layer.values[section].pop(name)
        meant |= _report(layer, (section, name), what_was_meant(name, section, value, guess=layer.is_told))
    return meant


def without_space(name: str, keys: Collection[str]) -> str:
    """What to write for a key that has its value in it, as YAML reads `{rank:8}`; "" where it is another slip."""
    key, colon, value = name.partition(":")
    return f"a space belongs after the colon: `{key}: {value}`" if colon and key in keys else ""


def what_was_meant(name: str, section: str, value: Any = None, *, guess: bool = True) -> Meant:
    """The field, or the advice, for a key called `name` that `section` (or the top level, "") does not have.

    Args:
        guess: whether to look for a name that is nearly the same, which takes milliseconds.
    """
    if name in fields():
        above, name = name.split(".")
        return Meant(f"{above}.{name}", f"write `{above}:`, and `{name}:` indented below it")
    if section and (spaced := without_space(name, section_fields(section))):
        return Meant(f"{section}.{name.partition(':')[0]}", spaced)
    target = CALLED.get(plain(f"{section}.{name}")) if section else None
    if target is None and (found := sections_with(name)):
        return _from_table(f"{found[0]}.{name}", value)
    target = target or CALLED.get(plain(name))
    optimizer = plain(str(value).rpartition(".")[2])
    if target == "optim.method" and optimizer in OPTIMIZER_CALLED:
        return Meant("optim.method", f"in section `optim` write {OPTIMIZER_CALLED[optimizer]}")
    if target == "train.global_batch_size" and _number(value) >= SURELY_TOKENS:
        return _from_table(CALLED["tokensperbatch"])
    if target:
        return _from_table(target, value)
    if not guess:
        return Meant()
    names = [each.split(".")[1] for each in sorted(fields(), key=lambda path: not path.startswith(f"{section}."))]
    if close := nearest(name, names) or _nearly(name):
        known = f"{section}.{close[0]}"
        return Meant(known) if known in fields() else what_was_meant(close[0], section)
    return Meant(hint=f"the keys of `{section}` are {', '.join(section_fields(section))}" if section else ALL_SECTIONS)


def _number(value: Any) -> int:
    """A whole number, or what an override has for one; 0 where it is none, or longer than any that is meant."""
    text = str(value)
    return int(text) if text.isdecimal() and len(text) < 20 else 0


def _nearly(name: str) -> list[str]:
    """The name of another toolkit that this is but for a slip: two names of theirs are often nearly the same."""
    slips = max(1, len(plain(name)) // 8)
    return [each for each in nearest(name, ALIASES) if distance(plain(each), plain(name)) <= slips]


def setting_called(name: str) -> tuple[str, str]:
    """The field that `name` means for sure (`train.max_steps`, `max-steps`, or what another toolkit calls it), and the
    value that it says too, if it does; "" where there is none."""
    section, _, leaf = name.rpartition(".")
    own = [path for path in fields() if plain(path.rpartition(".")[2]) == plain(leaf) and path.startswith(section)]
    target, _, value = CALLED.get(plain(leaf), "").partition(": ")
    return (own[0], "") if own else (target, value) if target in fields() else ("", "")


def advice_on(name: str) -> str:
    """What to do instead, in words, where no single field takes the place of `name`; "" where nothing is known."""
    told = CALLED.get(plain(name), "")
    return "" if told.partition(": ")[0] in fields() else told


def _from_table(target: str, given: Any = None) -> Meant:
    """What the tables say of a name, which was `given` a value."""
    path, _, value = target.partition(": ")
    if path not in fields():
        return Meant(hint=target)
    section, name = path.split(".")
    field = fields()[path]
    if value and given is False and str(field.schema.get("default")) != value:
        return Meant(path, "it is off unless it is asked for: leave it out")
    if value and given is not False:
        return Meant(path, f"in section `{section}` write `{name}: {value}`")
    if value or not _takes(field, given):
        return Meant(path, f"in section `{section}` it is called `{name}`, which takes {field.expected}")
    return Meant(path)


def _takes(field: FieldInfo, value: Any) -> bool:
    """Whether a value is of a kind that the field takes, or one whose place there is another value known for."""
    if field.path == "optim.method" and "." in str(value):  # a class, which is none of its choices
        return False
    if value is None or isinstance(value, str) or str(value).lower() in inverse(VALUES.get(field.path, {})):
        return True
    if isinstance(value, list):
        return field.takes("array") and not any(isinstance(each, Mapping) for each in value)
    if isinstance(value, Mapping):
        return field.takes("object") and not any(isinstance(each, str) for each in value.values())
    kinds = {bool: ("boolean",), int: ("integer", "number"), float: ("integer", "number")}
    return any(field.takes(kind) for kind in kinds.get(type(value), ("object",)))


def _report(layer: Layer, key: Key, meant: Meant) -> set[str]:
    fix = meant.hint or (advice(key, meant.target) if meant.target else "")
    listed = layer.is_told and any(each.fix == fix for each in layer.problems)  # all keys of a section, once
    layer.report(key, "unknown key", "" if listed else fix)
    return {meant.target} - {""}


def advice(key: Key, target: str) -> str:
    """How to write `target` instead of `key`: in this section, or in another one."""
    section, name = target.split(".")
    if key[0] == section and len(key) > 1:
        return f"here it is called `{name}`"
    if key[-1] == name:
        return f"`{name}` belongs in section {' or '.join(f'`{each}`' for each in sections_with(name))}"
    return f"in section `{section}` it is called `{name}`"


def _below(section: str, value: Any) -> str:
    known = OPTIMIZERS.get(str(value).lower(), "method: galore") if section == "optim" else None
    example = known or f"{section_fields(section)[0]}: …"
    return f"write {example} below `{section}:`, indented by two spaces"
