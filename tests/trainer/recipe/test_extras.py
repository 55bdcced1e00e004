"""Optional packages: those that are missing, and those that are too old for what is asked of them."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from galore.trainer.common.errors import UserError
from galore.trainer.recipe import extras

ROOT = Path(__file__).parents[3]


def test_versions_are_those_that_are_installed_with_an_extra() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for module, extra in extras.EXTRAS.items():
        said = [each.partition(";")[0] for each in declared[extra.name]]
        assert {f"{extra.distribution}{how}{extra.since}" for how in (">=", "==")} & set(said), module


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    extras._too_old.cache_clear()
    yield monkeypatch
    extras._too_old.cache_clear()


@pytest.mark.parametrize("version", ["20.9.1", "9", "20.0.0+local24", "24rc1.dev3"])
def test_what_is_too_old_is_told_with_what_installs_it(installed: pytest.MonkeyPatch, version: str) -> None:
    installed.setattr(metadata, "version", lambda name: version)
    if version.startswith("24"):
        assert extras.require("pyarrow").__name__ == "pyarrow"
        assert not extras.missing("pyarrow")
        return
    why = f"is {version}, and 24 is the first that will do"
    assert extras.missing("pyarrow") == f"pyarrow {why} (pip install 'galore-llm[data]')"
    for ask in (extras.require, extras.refuse_missing):
        with pytest.raises(UserError) as refused:
            ask("pyarrow", "a parquet file", where="data.path", otherwise="name a text file")
        assert str(refused.value).startswith(f"data.path: a parquet file needs the package `pyarrow`, which {why}")
        assert refused.value.fix == "pip install 'galore-llm[data]', or name a text file"


def test_what_no_installer_knows_of_is_taken(installed: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    installed.setattr(metadata, "version", unknown)
    assert extras.require("pyarrow.parquet").__name__ == "pyarrow.parquet"


@pytest.mark.parametrize(("version", "numbers"), [("5.1", [5, 1]), ("26.0.1", [26, 0, 1]), ("2.13.0+cpu", [2, 13, 0])])
def test_numbers_of_a_version(version: str, numbers: list[int]) -> None:
    assert extras._numbers(version) == numbers
