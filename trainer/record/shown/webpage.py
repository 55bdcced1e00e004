"""Runs as one HTML page that needs nothing else: curves to point at, and the text of a report or a comparison."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape
from pathlib import Path

from markdown_it import MarkdownIt

from galore.trainer.common.format import counted
from galore.trainer.common.legible import writable
from galore.trainer.common.markdown import section, table
from galore.trainer.common.page import as_script, filled, read_part
from galore.trainer.common.printable import masked
from galore.trainer.recipe.dump import dotted
from galore.trainer.recipe.parse.problems import RecipeError
from galore.trainer.recipe.parse.source import parse
from galore.trainer.record.history import History
from galore.trainer.record.shown import sections
from galore.trainer.record.shown.curves import POINTS, curves, is_reduced
from galore.trainer.record.shown.report import texts

FOLDER = Path(__file__).with_name("run-page")
FOLDED = re.compile(r"<details>\n<summary>[^<>\n]*</summary>\n|</details>\n")
REDUCED = f"A curve of more than {POINTS:,} steps shows the means of as many stretches; the band is their least and most loss."
BASIS = "From metrics.jsonl, run.json and recipe.yaml as they were when this page was written; it loads nothing."


def page(histories: Mapping[str, History]) -> str:
    """The page of one run, or of several beside each other, by name."""
    histories = {writable(name): history for name, history in histories.items()}
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
    recipes = [_settings(each) for each in histories.values()]
    keys = dict.fromkeys(key for each in recipes for key in each)
    settings = [(key, *(each.get(key, "") for each in recipes)) for key in keys]
    differing = [row for row in settings if len(set(row[1:])) > 1]
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


def _settings(history: History) -> dict[str, str]:
    """Dotted keys with their values; nothing of a recipe that cannot be read."""
    try:
        known = dotted(parse(history.recipe, "recipe.yaml", Path()).values)
        return {key: masked(value) for key, value in known}
    except RecipeError:
        return {}


def _facts(history: History) -> dict[str, str]:
    try:
        return dict(sections.facts(history))
    except Exception as error:
        return {"run.json": f"damaged ({type(error).__name__}: {error})"}
