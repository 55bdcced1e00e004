"""The site's hooks: links as the site has them, made pages, every page in the navigation, and nothing from a network."""

from __future__ import annotations

import json
import re
from importlib.util import module_from_spec, spec_from_file_location
from types import SimpleNamespace
from typing import Any

import pytest
from snippets import ROOT


@pytest.fixture(scope="module")
def hooks() -> Any:
    spec = spec_from_file_location("site_hooks", ROOT / "docs/hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("place", "text", "expected"),
    [
        ("docs/memory.md", "[a](runs.md#checkpoints)", "[a](runs.md#checkpoints)"),
        ("docs/memory.md", "[a](../README.md#use)", "[a](overview.md#use)"),
        ("README.md", "[a](docs/memory.md)", "[a](memory.md)"),
        ("bench/LOG.md", "[a](../docs/memory.md)", "[a](../memory.md)"),
        ("docs/memory.md", "[a](../bench/results)", "a"),
        ("docs/memory.md", "[a](https://example.org/x) [b](#here)", "[a](https://example.org/x) [b](#here)"),
        ("docs/memory.md", "```\n[a](nowhere.md)\n```", "```\n[a](nowhere.md)\n```"),
    ],
)
def test_links_are_those_of_the_site(hooks: Any, place: str, text: str, expected: str) -> None:
    assert hooks.linked(text, place, hooks.pages()) == expected


def test_a_link_to_nothing_is_refused(hooks: Any) -> None:
    with pytest.raises(ValueError, match=r"docs/runs\.md links to nowhere\.md"):
        hooks.linked("[a](nowhere.md)", "docs/runs.md", hooks.pages())


def test_every_link_of_every_page_leads_somewhere(hooks: Any) -> None:
    known = hooks.pages()
    for place in known:
        hooks.linked((ROOT / place).read_text(encoding="utf-8"), place, known)


def test_every_page_is_in_the_navigation(hooks: Any) -> None:
    named = set(re.findall(r":\s+([\w./-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M))
    results = {name for name in hooks.pages().values() if name.startswith("bench/results/")}
    assert named == set(hooks.pages().values()) - results | {"keys.md", "results.md"}
    assert all(f"({name})" in hooks.results_page() for name in results)


def test_the_page_of_keys_has_every_key(hooks: Any) -> None:
    page = hooks.keys_page()
    for section in json.loads(hooks.SCHEMA.read_text())["$defs"].values():
        assert all(f"| `{key}`" in page for key in section["properties"])
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 5 for row in rows), "a bar in a cell would break the table"


@pytest.mark.parametrize(
    "html",
    [
        '<script src="https://cdn.example.org/x.js"></script>',
        "<img alt='' src=//example.org/x.png>",
        '<link href="https://fonts.example.org/x.css" rel="stylesheet">',
        "<style>a { background: url(https://example.org/x.png) }</style>",
    ],
)
def test_a_page_that_would_load_something_is_refused(hooks: Any, html: str) -> None:
    page = SimpleNamespace(file=SimpleNamespace(src_uri="x.md"))
    with pytest.raises(ValueError, match=r"x\.md would load"):
        hooks.on_post_page(html, page, None)
    assert hooks.on_post_page('<a href="https://example.org">x</a>', page, None)
