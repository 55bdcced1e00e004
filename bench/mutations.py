"""Faults that a tired engineer could make, one line each, and the tests that must see them.

    python bench/mutations.py [--only 3,17]

Each is put alone into a copy of the tree, and its tests run there; before that they must pass without any fault.
Exit code 1 when a fault is not seen or cannot be applied.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

sys.path.append(str(Path(__file__).parent))  # a safe path leaves this folder out

from faults import FAULTS

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("bench", "cli", "docs", "galore", "kernels", "recipes", "tests", "trainer")
PACKAGES = ("cli", "kernels", "recipes", "trainer")
PRELOADED = ("torch", "pydantic", "transformers.models.llama.modeling_llama")
LIMIT = 300  # seconds for the tests of one fault; one that hangs them is seen
PASSED, FAILED = 0, 1  # exit codes of pytest; any other says that the tests could not be run

Verdict = Literal["seen", "NOT SEEN", "cannot be applied"]


@dataclass(frozen=True)
class Mutation:
    """`new` in place of the one `old` in `file`; `tests` are pytest's arguments, a file and a choice of its tests."""

    file: str
    old: str
    new: str
    tests: tuple[str, str]

    def __str__(self) -> str:
        old, new = (" ".join(part.split()) for part in (self.old, self.new))
        return f"{self.file}: {old}  →  {new or '(nothing)'}"

    def applied_to(self, source: str) -> str | None:
        """The faulty source; None where the fragment does not occur, or more than once."""
        return source.replace(self.old, self.new) if source.count(self.old) == 1 else None


def mutations() -> list[Mutation]:
    """The table, a row each."""
    return [
        Mutation(file, old, new, _tests(usual, choice))
        for file, (usual, rows) in FAULTS.items()
        for old, new, choice in rows
    ]


def _tests(usual: str, choice: str) -> tuple[str, str]:
    file, colon, rest = choice.partition(": ")
    return (file, rest) if colon else (usual, choice)


class Copy:
    """A copy of the tree at `folder`, in which `galore` is the copy; the tree itself is only read."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.folder, self.links = folder, folder / "build/dev"
        for part in PARTS:
            if (root / part).is_dir():
                shutil.copytree(root / part, folder / part)
        for file in (file for file in root.glob("[!.]*") if file.is_file()):
            shutil.copy(file, folder)
        (self.links / "galore").mkdir(parents=True)
        for source in [*(folder / package for package in PACKAGES), *(folder / "galore").glob("*.py")]:
            (self.links / "galore" / source.name).symlink_to(source)

    def passes(self, file: str, choice: str) -> bool | None:
        """Whether these tests pass; None where they could not be run, and False where they hang or crash."""
        process = multiprocessing.get_context("fork").Process(target=self._run, args=(file, choice))
        process.start()
        assert process.pid is not None
        try:
            process.join(LIMIT)
        finally:  # with all that its tests have started
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.join()
        code = process.exitcode
        assert code is not None
        return False if code < 0 else {PASSED: True, FAILED: False}.get(code)

    def _run(self, file: str, choice: str) -> None:
        """In a process of its own, which has torch already, and must not have what it imports of galore."""
        os.setsid()
        os.chdir(self.folder)
        os.environ |= {"PYTHONPATH": str(self.links), "PYTHONSAFEPATH": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        sys.dont_write_bytecode = True  # of two versions of one size and second the older one's would be taken
        sys.path.insert(0, str(self.links))
        for name in [name for name in sys.modules if name.partition(".")[0] == "galore"]:
            del sys.modules[name]
        sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - until the process ends
        for descriptor in (1, 2):
            os.dup2(sys.stdout.fileno(), descriptor)
        code = pytest.main(["-q", "-x", "-p", "no:cacheprovider", file, "-k", choice])
        os._exit(int(code))

    def verdict(self, mutation: Mutation) -> Verdict:
        """What the tests say of the tree with this one fault."""
        path = self.folder / mutation.file
        whole, times = path.read_text(), path.stat()
        faulty = mutation.applied_to(whole)
        if faulty is None:
            return "cannot be applied"
        path.write_text(faulty)
        try:
            passed = self.passes(*mutation.tests)
        finally:
            path.write_text(whole)
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        return "cannot be applied" if passed is None else "NOT SEEN" if passed else "seen"


def try_all(root: Path, chosen: list[tuple[int, Mutation]]) -> Counter[Verdict]:
    """Try the numbered mutations on a copy of `root`, and print a line for each.

    Raises:
        SystemExit: tests fail, or are not there, without any fault: they would prove nothing.
    """
    counts = Counter[Verdict]()
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        copy = Copy(root, Path(folder).resolve())
        proved: set[str] = set()
        for number, mutation in chosen:
            file = mutation.tests[0]
            if file not in proved:
                choices = {each.tests[1] for _, each in chosen if each.tests[0] == file}
                if not copy.passes(file, " or ".join(f"({choice})" for choice in sorted(choices))):
                    raise SystemExit(f"{file} fails, or has no such tests, without any fault")
                proved.add(file)
            started = time.perf_counter()
            verdict = copy.verdict(mutation)
            counts[verdict] += 1
            print(f"{number:3} {verdict:17} {time.perf_counter() - started:4.0f} s  {mutation}", flush=True)
    return counts


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", metavar="N,M", help="numbers of the faults to try, from 1")
    only = {int(number) for number in parser.parse_args(arguments).only.split(",") if number}
    started, table = time.perf_counter(), list(enumerate(mutations(), start=1))
    if wrong := only - {number for number, _ in table}:
        parser.error(f"there are faults 1 to {len(table)}, and no {', '.join(map(str, sorted(wrong)))}")
    os.environ["HF_HUB_OFFLINE"] = "1"
    for module in PRELOADED:  # once, not in the process of every fault
        importlib.import_module(module)
    counts = try_all(ROOT, [(number, each) for number, each in table if not only or number in only])
    told = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    print(f"{counts.total()} faults: {told}; {time.perf_counter() - started:.0f} s")
    raise SystemExit(0 if counts["seen"] == counts.total() else 1)


if __name__ == "__main__":
    main()
