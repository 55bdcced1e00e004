"""Training files of other toolkits with some keys changed, and what is made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

FILES = Path(__file__).parent.parent / "trainer/recipe/convert/files"


def write(folder: Path, tool: str, without: tuple[str, ...] = (), **changes: Any) -> str:
    """The example of a toolkit with some keys changed."""
    values = yaml.safe_load((FILES / f"{tool}.yaml").read_text())
    values = {key: value for key, value in values.items() if key not in without} | changes
    (folder / "theirs.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    return str(folder / "theirs.yaml")


def settings(text: str) -> dict[str, Any]:
    return {
        f"{section}.{key}": value for section, inner in yaml.safe_load(text).items() for key, value in inner.items()
    }


def write_text(folder: Path, text: str) -> str:
    (folder / "made.yaml").write_text(text)
    return str(folder / "made.yaml")
