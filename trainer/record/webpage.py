"""Runs as one HTML page that needs nothing else: curves to point at, and the text of a report or a comparison."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

import yaml
from markdown_it import MarkdownIt

from galore.trainer.common.format import counted
from galore.trainer.common.markdown import section, table
from galore.trainer.common.page import as_script, filled, read_part
from galore.trainer.recipe.parse.syntax import RecipeLoader
from galore.trainer.record import sections
from galore.trainer.record.curves import POINTS, curves, is_reduced
from galore.trainer.record.history import History
from galore.trainer.record.report import texts

FOLDER = Path(__file__).with_name("run-page")
FOLDED = re.compile(r"<details>\n<summary>[^<>\n]*</summary>\n|</details>\n")
REDUCED = f"A curve of more than {POINTS:,} steps shows the means of as many stretches; the band is their least and most loss."
BASIS = "From metrics.jsonl, run.json and recipe.yaml as they were when this page was written; it loads nothing."


def page(histories: Mapping[str, History]) -> str:
    """The page of one run, or of several beside each other, by name."""
    [[name, history], *others] = histories.items()
    title = str(history.facts.get("name") or name) if not others else counted(len(histories), "run")
    head, body = comparison(histories) if others else of_one(history)
    return filled(
        FOLDER / "page.html",
        {
            "title": escape(title),
            "style": read_part(FOLDER / "page.css"),
            "script": read_part(FOLDER / "charts.js"),
            "head": html(head),
            "body": html(body),
            "reduced": REDUCED if is_reduced(histories) else "",
            "basis": BASIS,
            "data": as_script(curves(histories)),
        },
    )


def of_one(history: History) -> tuple[str, str]:
    """Markdown before the curves and after them: that of the run's report."""
    first, rest = texts(history)
    return "\n".join(filter(None, first)), "\n".join(filter(None, rest))


def comparison(histories: Mapping[str, History]) -> tuple[str, str]:
    """Markdown before the curves and after them: what each run came to, and the settings in which they differ."""
    told = {
        name: {"Steps": f"{each.last_step:,} of {each.total_steps:,}", **_facts(each)}
        for name, each in histories.items()
    }
    names = dict.fromkeys(name for facts in told.values() for name in facts)
    rows = [(name, *(facts.get(name, "") for facts in told.values())) for name in names]
    flat = {name: dict(_leaves(_recipe(each))) for name, each in histories.items()}
    keys = dict.fromkeys(key for leaves in flat.values() for key in leaves)
    differing = [
        (key, *(str(leaves.get(key, "")) for leaves in flat.values()))
        for key in keys
        if len({str(leaves.get(key, "")) for leaves in flat.values()}) > 1
    ]
    head = ["", *histories]
    return table(head, rows), section("Settings that differ", table(head, differing))


def html(markdown: str) -> str:
    """HTML of a report's Markdown. No markup passes but that of folded parts; whatever else looks like it is text."""
    reader = MarkdownIt("commonmark").enable("table")
    reader.add_render_rule("html_inline", lambda _, tokens, index, *rest: escape(tokens[index].content))
    reader.add_render_rule("html_block", lambda _, tokens, index, *rest: _folded(tokens[index].content))
    made: str = reader.render(markdown)
    return made.replace("<table>", '<div class="scroll"><table>').replace("</table>", "</table></div>")


def _folded(text: str) -> str:
    return text if FOLDED.fullmatch(text) else f"<p>{escape(text)}</p>"


def _recipe(history: History) -> Any:
    try:
        return RecipeLoader(history.recipe).get_single_data()
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}


def _facts(history: History) -> dict[str, str]:
    try:
        return dict(sections.facts(history))
    except Exception as error:
        return {"run.json": f"damaged ({type(error).__name__}: {error})"}


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys with their values."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}".lstrip("."))
    else:
        yield path, value
