"""The ends of the versions that pyproject.toml accepts, as requirements for pip: `python bench/ranges.py oldest`, or newest.

`make oldest` and `make newest` run the tests with them. What pip is not told of, it takes as new as the rest allows.
"""

from __future__ import annotations

import argparse
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(?:(?P<how>>=|==)(?P<version>[\w.]+))?(?P<marker>;.*)?")
BESIDE = ("dev",)  # what the tests need, beside all that users install


def accepted() -> Iterator[re.Match[str]]:
    """Every requirement of the package, of what extra `all` stands for, and of the tests.

    Raises:
        SystemExit: one is written otherwise than `name`, `name>=version` or `name==version`.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    (everything,) = extras["all"]
    named = everything.partition("[")[2].rstrip("]").split(",")
    for requirement in project["dependencies"] + [each for extra in (*named, *BESIDE) for each in extras[extra]]:
        found = REQUIREMENT.fullmatch(requirement.replace("; ", ";"))
        if found is None:
            raise SystemExit(f"pyproject.toml: {requirement} has no version that a range begins with")
        yield found


def oldest(requirement: re.Match[str]) -> str:
    """Its first version, or any where none is said to be."""
    version = f"=={requirement['version']}" if requirement["version"] else ""
    return requirement["name"] + version + (requirement["marker"] or "")


def newest(requirement: re.Match[str]) -> str:
    """Its last version; one that is pinned stays."""
    pinned = f"=={requirement['version']}" if requirement["how"] == "==" else ""
    return requirement["name"] + pinned + (requirement["marker"] or "")


ENDS = {"oldest": oldest, "newest": newest}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("end", choices=ENDS)
    end = ENDS[parser.parse_args().end]
    print("\n".join(map(end, accepted())))
