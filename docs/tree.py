"""The folders and files of the sources, one line each, from their own docstrings.

`python docs/tree.py` writes the folders into README.md and every file into docs/tree.md.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
TOPS = ("galore", "cli", "trainer", "kernels", "recipes")
BESIDE = {
    "tests": "Mirrors the source tree.",
    "bench": "What needs time or hardware; results by date and machine.",
    "docs": "Architecture, runs, optimizer, kernels, memory, instructions, GLUE, the proof on a card.",
}
LARGEST = "trainer"  # whose folders stand in the README's map


def about(path: Path) -> str:
    """The first line of a file's docstring, or of a folder's."""
    file = path / "__init__.py" if path.is_dir() else path
    doc = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return doc.split("\n\n")[0].replace("\n", " ").strip()


def branch(folder: Path, prefix: str, deep: int | None) -> list[str]:
    """What is in a folder: its files and folders, or where `deep` says how far to go its folders alone."""
    files = [] if deep is not None else [path for path in sorted(folder.glob("*.py")) if path.name != "__init__.py"]
    rooms = [path for path in sorted(folder.iterdir()) if (path / "__init__.py").exists()] if deep != 0 else []
    lines = []
    for path in [*files, *rooms]:
        edge, inner = ("└── ", "    ") if path == [*files, *rooms][-1] else ("├── ", "│   ")
        lines.append(f"{prefix}{edge}{path.name + '/' * path.is_dir():<24} {about(path)}")
        if path.is_dir():
            lines += branch(path, prefix + inner, deep and deep - 1)
    return lines


def tree(unfolded: str | None = None) -> str:
    """Every file; or folders alone, those of the one that is `unfolded`."""
    lines = ["."]
    for name in TOPS:
        lines.append(f"├── {name + '/':<24} {about(ROOT / name)}")
        lines += branch(ROOT / name, "│   ", None if unfolded is None else int(name == unfolded))
    for name, text in BESIDE.items():
        lines.append(f"{'└' if name == [*BESIDE][-1] else '├'}── {name + '/':<24} {text}")
    return "\n".join(lines) + "\n"


PAGES = {"README.md": tree(LARGEST), "docs/tree.md": tree()}


def rewritten(page: str, text: str) -> str:
    """The text of a page with its tree as it is now."""
    return re.sub(r"```text\n\.\n.*?```", lambda _: f"```text\n{PAGES[page]}```", text, flags=re.S)


if __name__ == "__main__":
    for page in PAGES:
        file = ROOT / page
        file.write_text(rewritten(page, file.read_text(encoding="utf-8")), encoding="utf-8")
