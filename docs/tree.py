"""The source tree with one line per file, from the files' own docstrings: `python docs/tree.py` rewrites the README's."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
FLOORS = {
    "cli": "Typer verbs and what the terminal shows; no torch before a verb runs",
    "trainer": "recipe → run → loop → checkpoint, metrics, report",
    "kernels": "tensors only: project, Adam, lift and update, quantise, subspace, cross-entropy",
    "recipes": "YAML only: demo, finetune-instruct, roberta-glue, llama-60m … llama-7b and their variants",
}
BESIDE = {
    "tests": "mirrors the source tree",
    "bench": "what needs time or hardware; results by date and machine",
    "docs": "optimizer, instructions, GLUE, memory profile, and this tree",
}


def first_line(path: Path) -> str:
    doc = ast.get_docstring(ast.parse(path.read_text())) or ""
    return doc.split("\n\n")[0].replace("\n", " ").strip()


def branch(folder: Path, prefix: str) -> list[str]:
    files = [path for path in sorted(folder.glob("*.py")) if path.name != "__init__.py"]
    rooms = [path for path in sorted(folder.iterdir()) if (path / "__init__.py").exists()]
    lines = []
    for position, path in enumerate([*files, *rooms]):
        last = position == len(files) + len(rooms) - 1
        edge, inner = ("└── ", "    ") if last else ("├── ", "│   ")
        name = path.name + ("/" if path.is_dir() else "")
        text = first_line(path / "__init__.py" if path.is_dir() else path)
        lines.append(f"{prefix}{edge}{name:<24} {text}")
        if path.is_dir():
            lines += branch(path, prefix + inner)
    return lines


def tree() -> str:
    lines = ["galore/"]
    for name, text in FLOORS.items():
        lines.append(f"├── {name + '/':<24} {text}")
        lines += branch(ROOT / name, "│   ")
    for position, (name, text) in enumerate(BESIDE.items()):
        lines.append(f"{'└' if position == len(BESIDE) - 1 else '├'}── {name + '/':<24} {text}")
    return "\n".join(lines) + "\n"


def rewritten(readme: str) -> str:
    return re.sub(r"```text\ngalore/.*?```", lambda _: f"```text\n{tree()}```", readme, flags=re.S)


if __name__ == "__main__":
    file = ROOT / "README.md"
    file.write_text(rewritten(file.read_text()))
