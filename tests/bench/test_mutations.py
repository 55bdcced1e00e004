"""The list of faults: none has gone stale, each names tests that are there, and a fault of a toy tree is told apart."""

import re
from pathlib import Path

import mutations
import pytest
from mutations import ROOT, Copy, Mutation, try_all

TESTS = ("tests/test_toy.py", "test_sum")
FAULT = Mutation("trainer/toy.py", "x + y", "x - y", TESTS)


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A tree whose test asks for the sum of 1 and 0 in vain, and of 2 and 3."""
    for folder in ("galore", "trainer", "tests"):
        (tmp_path / folder).mkdir()
    for package in ("galore", "trainer"):
        (tmp_path / package / "__init__.py").touch()
    (tmp_path / "trainer/toy.py").write_text(
        "def add(x, y):\n    return x + y\n\n\ndef other(x, y):\n    return x * y\n"
    )
    (tmp_path / "tests/test_toy.py").write_text(
        "from galore.trainer.toy import add\n\n\ndef test_sum():\n    assert add(2, 3) == 5\n\n\n"
        "def test_of_nothing():\n    assert add(1, 0) == 1\n"
    )
    return tmp_path


@pytest.mark.parametrize("mutation", mutations.mutations(), ids=str)
def test_every_fragment_occurs_once_and_its_tests_are_there(mutation: Mutation) -> None:
    assert mutation.applied_to((ROOT / mutation.file).read_text()) is not None
    file, choice = mutation.tests
    defined = re.findall(r"^def (test_\w+)", (ROOT / file).read_text(), re.MULTILINE)
    for name in re.findall(r"\btest_\w*", choice):
        assert any(name in each for each in defined), f"{file} has no {name}"


@pytest.mark.parametrize(
    ("mutation", "verdict"),
    [
        (FAULT, "seen"),
        (Mutation(FAULT.file, "x + y", "x - y", (TESTS[0], "test_of_nothing")), "NOT SEEN"),
        (Mutation(FAULT.file, "x + y", "exit()", TESTS), "seen"),
        (Mutation(FAULT.file, "x +* y", "x - y", TESTS), "cannot be applied"),
        (Mutation(FAULT.file, "return", "yield", TESTS), "cannot be applied"),
        (Mutation(FAULT.file, "x + y", "x +* y", TESTS), "cannot be applied"),
    ],
)
def test_a_fault_of_a_toy_tree_is_told_apart(toy: Path, mutation: Mutation, verdict: str, capsys) -> None:
    before = {path: path.read_bytes() for path in toy.rglob("*.py")}
    assert try_all(toy, [(7, mutation)]) == {verdict: 1}
    assert f"  7 {verdict} " in capsys.readouterr().out
    assert {path: path.read_bytes() for path in toy.rglob("*") if path.is_file()} == before


def test_tests_that_fail_without_a_fault_prove_nothing(toy: Path) -> None:
    (toy / "tests/test_toy.py").write_text("def test_sum():\n    assert False\n")
    with pytest.raises(SystemExit, match=r"tests/test_toy\.py fails"):
        try_all(toy, [(1, FAULT)])


def test_a_test_that_hangs_has_seen_the_fault(toy: Path, tmp_path_factory, monkeypatch) -> None:
    (toy / "trainer/toy.py").write_text("import time\n\ntime.sleep(60)\n")
    monkeypatch.setattr(mutations, "LIMIT", 1)
    assert Copy(toy, tmp_path_factory.mktemp("copy")).passes(*TESTS) is False
