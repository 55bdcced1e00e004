"""A page of HTML that needs nothing else: a template that is filled in, a style, and data for its script."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Of every page: colours by day and by night, text, tables, buttons.
STYLE = Path(__file__).with_name("page.css")


def read_part(path: Path) -> str:
    """A part of a page that ships beside its code."""
    return path.read_text(encoding="utf-8").strip()


def filled(template: Path, values: Mapping[str, str]) -> str:
    """The page that HTML with `{{names}}` makes of `values`, HTML as well; `{{style}}` begins with STYLE."""
    known = {**values, "style": f"{read_part(STYLE)}\n{values['style']}"}
    return re.sub(r"\{\{(\w+)\}\}", lambda match: known[match[1]], read_part(template))


def as_script(document: Any) -> str:
    """JSON that can stand between script tags, whatever the strings in it."""
    text = json.dumps(document, separators=(",", ":"), allow_nan=False, ensure_ascii=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
