"""What README.md, CONTRIBUTING.md, CHANGELOG.md and docs/*.md tell one to type: fenced blocks, and commands in the text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
FILES = [*(ROOT / page for page in PAGES), *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
TYPED = ("galore ", "make ", "python bench/", "python -m ", "pip install ")


@dataclass(frozen=True)
class Snippet:
    """One block, or one command with its white space made single and its comment left out."""

    file: str
    language: str
    text: str


def blocks(*languages: str) -> list[Snippet]:
    """The fenced blocks of these languages, or all of them."""
    found = [Snippet(path.name, *each) for path in FILES for each in FENCE.findall(path.read_text(encoding="utf-8"))]
    return [each for each in found if not languages or each.language in languages]


def lines(block: Snippet) -> list[str]:
    """The commands of a block of `sh`, continued lines joined."""
    joined = block.text.replace("\\\n", " ").splitlines()
    return list(filter(None, (" ".join(re.sub(r"(^|\s)#.*", "", line).split()) for line in joined)))


def spans() -> list[Snippet]:
    """What stands between backticks, in tables and in the text, or in an indented line that begins like a command."""
    found = []
    for path in FILES:
        rest = FENCE.sub("", path.read_text(encoding="utf-8"))
        indented = [line for line in rest.splitlines() if line.startswith("    ") and line.strip().startswith(TYPED)]
        found += [Snippet(path.name, "", " ".join(text.split())) for text in re.findall(r"`([^`]+)`", rest) + indented]
    return found


def commands() -> list[Snippet]:
    """All that is to be typed at a shell."""
    fenced = [Snippet(block.file, "sh", line) for block in blocks("sh") for line in lines(block)]
    return fenced + [each for each in spans() if each.text.startswith(TYPED)]
