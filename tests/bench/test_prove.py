"""The proof against faults: a few trials of each part hold, and each part sees a fault that is planted."""

import math
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from prove import records, shim
from prove.child import Ended
from prove.parts import NAMES, PARTS, corrupt
from prove.powercut import Disk, cut
from prove.records import END, Record, Records, summary
from prove.runner import Plan, longest, run_all
from prove.shim import Operation, distinct
from prove.trials import Trials

HERE = Path(__file__).parent
BENCH = HERE.parents[1] / "bench"
needs_gcc = pytest.mark.skipif(shim.why_not() is not None, reason=str(shim.why_not()))


def python(*words: object, seconds: float = 60) -> subprocess.CompletedProcess[str]:
    """A Python that finds the bench, in a process of its own: what forks must have one thread."""
    path = os.pathsep.join([str(BENCH), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, *map(str, words)]
    return subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=seconds
    )


@pytest.fixture
def noted(tmp_path: Path) -> Records:
    return Records(tmp_path / "records.jsonl")


@needs_gcc
def test_a_few_trials_of_each_part_hold(tmp_path: Path) -> None:
    """A minute where nothing else runs."""
    ended = python("-m", "prove", "--sample", "--seed", 1, "--budget", 400, "--out", tmp_path, seconds=900)
    found = list(Records(next(tmp_path.glob("*.jsonl"))))
    assert ended.returncode == 0, ended.stdout[-5000:] + ended.stderr[-2000:]
    assert [record.part for record in found if record.kind == END] == list(NAMES)
    assert all(sum(record.part == name for record in found) > 5 for name in NAMES)


@needs_gcc
@pytest.mark.slow
def test_each_part_finds_its_fault(tmp_path: Path) -> None:
    """Two minutes where nothing else runs; each part ends where it has told, and is stopped where it never does."""
    most = 60 + len(PARTS) * longest(120)
    ended = python(HERE / "planted.py", tmp_path / "records.jsonl", tmp_path, seconds=most)
    assert ended.returncode == 0, ended.stdout[-5000:] + ended.stderr[-2000:]
    assert [r.part for r in Records(tmp_path / "records.jsonl") if r.kind == END and r.ok] == list(NAMES)


def test_a_child_over_its_time_is_ended_with_all_it_started(tmp_path: Path) -> None:
    program = f"""
import subprocess, sys, time
from pathlib import Path
from types import SimpleNamespace
from prove.child import run
def hang():
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    Path({str(tmp_path / "begun")!r}).touch()
    time.sleep(60)
print(run(hang, Path({str(tmp_path / "said")!r}), limit=1.0))
print(run(lambda: 7, Path({str(tmp_path / "said")!r})).code)
"""
    ended = python("-c", program)
    assert ended.stdout.startswith("hung"), ended.stderr
    assert "in hang" in ended.stdout
    assert ended.stdout.endswith("\n7\n")
    assert (tmp_path / "begun").exists()


def test_a_process_with_threads_is_not_forked(tmp_path: Path) -> None:
    program = "import threading, time\nfrom prove.child import run\nthreading.Thread(target=time.sleep, args=(5,), daemon=True).start()\nrun(print, None)"
    assert "2 threads: a fork of this process may hang" in python("-c", program).stderr


def test_a_line_that_was_cut_off_costs_only_itself(noted: Records) -> None:
    noted.add(Record("save", "kill", True))
    with noted.file.open("a") as out:
        out.write('{"part": "save", "ki')
    assert [(record.part, record.ok) for record in noted] == [("save", True)]


def test_a_summary_has_sixty_lines_at_most_and_counts_what_held(noted: Records) -> None:
    for number in range(200):
        noted.add(Record("crash", "same bits", number % 2 == 0, "other checkpoints"))
    noted.add(Record("crash", END, True, "done", 12.0))
    noted.add(Record("disk", "no time for 3 of 5 verbs"))
    lines = summary(noted).splitlines()
    assert len(lines) == records.MOST_LINES
    assert re.fullmatch(r"  crash +200 +100 +100   done, 12 s", lines[1])
    assert lines[2].endswith("cut off")
    assert "more in the records" in lines[-1]


def test_the_caps_of_all_parts_come_to_the_minutes_that_are_told() -> None:
    told = re.search(r"^prove:.*\((\d+) minutes", (BENCH.parent / "Makefile").read_text(), re.MULTILINE)
    assert told
    caps = sum(part.cap for part in PARTS)
    assert caps < 60 * int(told[1]) <= caps + 120  # importing, and the last trial of a part whose time is up


@pytest.mark.parametrize(("seconds", "sample", "tried"), [(60, False, 9), (-1, False, 3), (-1, True, 2)])
def test_a_spent_clock_leaves_the_fewest_trials(
    noted: Records, tmp_path: Path, seconds: float, sample: bool, tried: int
) -> None:
    trials = Trials("crash", noted, tmp_path, 1, seconds, sample)
    assert len(list(trials.some(range(9), "kills", sample=2, least=3))) == tried
    assert [record.kind for record in noted] == ([] if seconds > 0 or sample else ["no time for 6 of 9 kills"])


@pytest.mark.parametrize(("budget", "shares"), [(math.inf, [120, 240]), (720, [240, 480]), (36, [12, 24])])
def test_a_budget_is_shared_by_the_caps(
    noted: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: float, shares: list[float]
) -> None:
    given: list[float] = []
    clock = iter([0.0, 0.0, shares[0]])
    monkeypatch.setattr("prove.runner.time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr("prove.runner.gc.freeze", lambda: None)
    monkeypatch.setattr("prove.runner.carry_out", lambda part, plan, records, seconds: given.append(seconds))
    assert run_all(PARTS[:2], Plan(tmp_path, 1, budget), noted)
    assert given == shares


def test_a_wrong_name_is_refused() -> None:
    ended = python("-m", "prove", "--only", "crahs")
    assert (ended.returncode, "no part is called crahs; there are save, crash" in ended.stderr) == (1, True)


def test_without_a_compiler_the_reason_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shim.shutil, "which", lambda _: None)
    assert "gcc is missing" in str(shim.why_not())


def operation(
    name: str, path: Path, source: Path | str = "", done: bool = True, size: int = 0, copy: Path | None = None
) -> Operation:
    return Operation(0, name, size, str(path), str(source), done, copy)


def test_a_power_cut_takes_what_was_not_synced(tmp_path: Path) -> None:
    private, final, other = tmp_path / ".a.tmp", tmp_path / "a", tmp_path / "b"
    final.write_text("whole")
    other.write_text("whole")
    made = [operation("create", private), operation("write", private), operation("rename", final, private)]
    late = [*made, operation("sync", final), operation("create", other), operation("sync", tmp_path)]
    disk = Disk()
    assert disk.torn(late) == [str(final)]
    assert disk.lost_bytes(tmp_path) == [other]
    assert not disk.lost_names()
    assert Disk().follow(made).lost_names() == [final]
    assert not Disk().follow([operation("sync", final, done=False)]).content
    assert cut(late) == [other]
    assert (final.read_text(), other.read_text()) == ("whole", "")


def test_a_link_is_lost_unless_its_folder_was_synced(tmp_path: Path) -> None:
    link, target = tmp_path / "folder/link", tmp_path / "target"
    target.write_text("whole")
    link.parent.mkdir()
    link.symlink_to("../target")
    disk = Disk().follow([operation("sync", target)])
    assert disk.lost_bytes(tmp_path) == [link]
    assert not disk.follow([operation("sync", link.parent)]).lost_bytes(tmp_path)


@pytest.mark.parametrize(
    ("since", "left"),
    [
        ([], "synced, not"),
        ([("write", 4)], "synced"),
        ([("create", 0), ("write", 4)], "synced"),
        ([("create", 1), ("write", 4)], ""),
        ([("resize", 3), ("resize", 9)], "syn"),
        ([("rename", 0), ("write", 4)], "synced"),
    ],
)
def test_a_power_cut_leaves_what_the_last_sync_put_on_the_disk(
    tmp_path: Path, since: list[tuple[str, int]], left: str
) -> None:
    old, file, copy = tmp_path / "old", tmp_path / "rows", tmp_path / "7"
    file.write_text("synced, not")
    copy.write_text("synced")
    begun = old if ("rename", 0) in since else file
    life = [operation("create", begun), operation("write", begun), operation("sync", begun, copy=copy)]
    cut([*life, *(operation(name, file, old, size=size) for name, size in since)])
    assert file.read_text() == left


@needs_gcc
def test_what_a_sync_put_on_the_disk_is_kept(tmp_path: Path) -> None:
    """Rows are appended, one is synced, another not, and the process is killed."""
    (tmp_path / "there").mkdir()
    program = f"""
import os
from pathlib import Path
from types import SimpleNamespace
from prove.runner import with_shim
with_shim()
from prove.child import run
from prove.shim import Fault, operations
from prove.powercut import cut
here = Path({str(tmp_path)!r})
def work():
    with open(here / "there/rows", "ab", buffering=0) as file:
        file.write(b"one ")
        os.{{}}(file.fileno())
        file.write(b"two")
        os.kill(os.getpid(), 9)
ended = run(work, here / "said", fault=Fault(), watch=[here / "there"], log=here / "log")
print(ended.code, (here / "there/rows").read_text(), cut(operations(here / "log")), (here / "there/rows").read_text())
"""
    for sync, left in (("fsync", "one "), ("fdatasync", "one "), ("fstat", "")):
        (tmp_path / "there/rows").unlink(missing_ok=True)
        ended = python("-c", program.format(sync))
        assert ended.stdout == f"-9 one two {[tmp_path / 'there/rows']} {left}\n", ended.stderr


def test_a_long_series_of_writes_is_four_places(tmp_path: Path) -> None:
    writes = [Operation(number, "write", 1, "a", "") for number in range(9)]
    around = [Operation(20, "mkdir", 0, "b", ""), *writes, Operation(21, "sync", 0, "a", "")]
    assert [each.number for each in distinct(around)] == [20, 0, 1, 4, 8, 21]


@pytest.mark.parametrize(
    ("answer", "code", "said", "wrong"),
    [
        (corrupt.SAME, 0, "abc", None),
        (corrupt.SAME, 0, "other", "silently taken"),
        (corrupt.SAME, 2, "no", "refused, though it does not matter"),
        (corrupt.REFUSED_OR_SAME, 2, "no", None),
        (corrupt.REFUSED_OR_SAME, 0, "other", "silently taken"),
        (corrupt.TOLD, 0, "6 other told", None),
        (corrupt.TOLD, 0, "6 other nothing said", "silently taken"),
        (corrupt.ENDS, 0, "other", None),
        (corrupt.ENDS, 70, "KeyError", "a traceback"),
        (corrupt.SAME, None, "", "hung"),
    ],
)
def test_what_a_reader_says_of_damage_is_judged(answer: str, code: int | None, said: str, wrong: str | None) -> None:
    assert corrupt.judge(answer, Ended(0, "abc", 0.0), Ended(code, said, 0.0)) == wrong


def test_a_file_that_nobody_has_decided_about_is_none_of_the_kinds() -> None:
    assert corrupt.kind_of("run/checkpoints/step-00000012/model.safetensors")
    assert corrupt.kind_of("cache/tokens/0123456789abcdef/train.tokens")
    assert corrupt.kind_of("run/optimizer.json") is None
    assert corrupt.kind_of("run/checkpoints/step-00000012/optimizer.json") is None


def test_damage_to_a_link_leaves_what_it_leads_to(tmp_path: Path) -> None:
    target, folder = tmp_path / "target", tmp_path / "folder"
    target.write_text("whole")
    for seed in range(60):
        folder.mkdir()
        for name in ("one", "two"):
            (folder / name).symlink_to("../target")
        corrupt.damage(folder / "one", random.Random(seed))
        assert target.read_text() == "whole", seed
        assert not (folder / "one").is_symlink() or (folder / "one").readlink() != Path("../target")
        shutil.rmtree(folder)
