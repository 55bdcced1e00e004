"""The documentation as a site: pages that are written elsewhere, links as they have to be there, and nothing from a network.

mkdocs calls the functions that begin with `on_`; see mkdocs.yml.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BESIDE = {  # pages from outside of docs/ → their names in the site, where README.md would be the first page of a folder
    "README.md": "overview.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "bench/LOG.md": "bench/log.md",
}
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)")
FENCE = re.compile(r"(^```.*?^```)", re.M | re.S)
OUTSIDE = re.compile(
    r"""<(?:script|img|iframe)\b[^>]*\ssrc=["']?(?:https?:)?//|<link\b[^>]*\bhref=["']?(?:https?:)?//[^>]*stylesheet|url\(["']?https?://"""
)
SCHEMA = ROOT / "recipes/recipe.schema.json"


def pages() -> dict[str, str]:
    """Where each page is in the repository → where it is in the site."""
    written = {f"docs/{path.name}": path.name for path in sorted((ROOT / "docs").glob("*.md"))}
    return {**written, **BESIDE, **{name: name for name in results()}}


def results() -> list[str]:
    """Files of results, newest first."""
    return sorted((f"bench/results/{path.name}" for path in (ROOT / "bench/results").glob("*.md")), reverse=True)


def results_page() -> str:
    """The list of all that was measured, by date and machine."""
    titles = {name: (ROOT / name).read_text(encoding="utf-8").partition("\n")[0].lstrip("# ") for name in results()}
    rows = [f"- [{Path(name).stem}]({name}): {title}" for name, title in titles.items()]
    return "\n".join(["# Results, by date and machine", "", *rows]) + "\n"


def linked(text: str, place: str, known: dict[str, str]) -> str:
    """The Markdown of the page at `place` in the repository with its links as the site has them.

    A link to a file that is no page of the site becomes its bare text.
    """

    def link(match: re.Match[str]) -> str:
        words, target = match.groups()
        file, mark, anchor = target.partition("#")
        if not file or "://" in file or file.startswith("mailto:"):
            return match[0]
        aim = posixpath.normpath(posixpath.join(posixpath.dirname(place), file))
        if aim not in known:
            if not (ROOT / aim).exists():
                raise ValueError(f"{place} links to {target}, which is not there")
            return words
        return f"[{words}]({posixpath.relpath(known[aim], posixpath.dirname(known[place]) or '.')}{mark}{anchor})"

    parts = FENCE.split(text)
    return "".join(part if part.startswith("```") else LINK.sub(link, part) for part in parts)


def keys_page() -> str:
    """The page of every key of a recipe, from the schema that editors read."""
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    lines = [
        "# Every key of a recipe",
        "",
        "Keys marked † say how a run is carried out; they may change on `--resume`.",
        "",
    ]
    for name, section in schema["properties"].items():
        lines += [f"## {name}", "", section.get("description", ""), ""]
        keys = definition(schema, section)
        lines += [*table(keys)]
        for key, field in keys.items():
            if inner := definition(schema, field):
                lines += [f"### {name}.{key}, each", "", *table(inner)]
    return "\n".join(lines) + "\n"


def definition(schema: dict[str, Any], section: dict[str, Any]) -> dict[str, Any]:
    """The keys of a section, or of each section of a list, by name; none of what is neither."""
    ways = (section, *section.get("anyOf", ()))
    chosen = next((each for way in ways for each in (way, way.get("items", {})) if "$ref" in each), None)
    return schema["$defs"][chosen["$ref"].rpartition("/")[2]]["properties"] if chosen else section.get("properties", {})


def table(keys: dict[str, Any]) -> Iterator[str]:
    """The lines of a table of keys with their values, what holds where none is written, and what they mean."""
    if not keys:
        return
    yield from ("| key | values | left out | meaning |", "|---|---|---|---|")
    for key, field in keys.items():
        sign = " †" if field.get("execution") else ""
        default = json.dumps(field["default"], ensure_ascii=False) if "default" in field else "to be written"
        meaning = field.get("description", "").replace("|", "\\|")
        yield f"| `{key}`{sign} | {values(field)} | `{default}` | {meaning} |"
    yield ""


def values(field: dict[str, Any]) -> str:
    """The values that a key takes, in a few words."""
    if "enum" in field:
        return ", ".join(f"`{each}`" for each in field["enum"])
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(values(each) for each in field["anyOf"]))
    if field.get("type") == "array":
        return f"list of {values(field.get('items', {}))}"
    if "$ref" in field:
        return "mapping"
    names = {
        "string": "text",
        "integer": "whole number",
        "number": "number",
        "boolean": "true, false",
        "object": "mapping",
    }
    return names.get(str(field.get("type")), str(field.get("type", "anything")))


def on_files(files: Any, config: Any) -> Any:
    """Pages from outside of docs/, and the ones that are made here."""
    from mkdocs.structure.files import File

    for place, name in pages().items():
        if not place.startswith("docs/"):
            files.append(File.generated(config, name, abs_src_path=str(ROOT / place)))
    for name, text in {"keys.md": keys_page(), "results.md": results_page()}.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """A page's text with the site's links."""
    known = pages()
    place = next((place for place, name in known.items() if name == page.file.src_uri), None)
    return linked(markdown, place, known) if place else markdown


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Refuse a page that would load something from a network when it is read."""
    if found := OUTSIDE.search(output):
        raise ValueError(f"{page.file.src_uri} would load {found[0]!r} from a network")
    return output
