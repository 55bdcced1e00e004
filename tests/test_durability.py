"""Files are written by `durable` alone, so that each is whole and on the disk before it has its name."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = [path for top in ("cli", "trainer", "kernels", "recipes") for path in sorted((ROOT / top).rglob("*.py"))]
WRITING = {"write_text", "write_bytes", "save_pretrained", "makedirs", "copyfile", "copy2", "copytree", "move", "savez"}
CREATING = {"O_WRONLY", "O_RDWR", "O_CREAT", "O_APPEND", "O_TRUNC"}
TEMPORARY = {"TemporaryFile", "NamedTemporaryFile", "TemporaryDirectory", "mkstemp", "mkdtemp"}
EXCEPTIONS = {
    ("cli/errors.py", "mkstemp"): "the traceback of a bug, for its report",
    ("cli/errors.py", "fdopen"): "the traceback of a bug, for its report",
    ("trainer/common/lock.py", "os.open"): "a lock is an inode, its content only names the holder",
    ("trainer/common/lock.py", "open"): "a lock is an inode",
    ("trainer/common/appended.py", "os.open"): "rows are appended, and synced before every checkpoint",
    ("cli/entry.py", "os.open"): "/dev/null, in place of a closed stream",
    ("trainer/memory/live.py", "write_text"): "a switch of the kernel's in /proc",
    ("trainer/data/formats/bytestream.py", "TemporaryFile"): "has no name, and is gone with the process",
    (
        "trainer/data/stream/beforehand.py",
        "mkdtemp",
    ): "deleted while its files are open; the next run sweeps what a dead one left",
    ("trainer/time/profiler.py", "TemporaryDirectory"): "torch writes its trace there, which is then kept in the run",
    ("kernels/predict/compiled.py", "NamedTemporaryFile"): "read by a tool while it runs",
    (
        "kernels/triton/tuning.py",
        "open",
    ): "kernels import nothing from above: a table of timings, on the disk before it has its name",
    ("kernels/triton/tuning.py", "mkdir"): "kernels import nothing from above: the user's folder of settings",
}


def offences(tree: ast.AST) -> Iterator[str]:
    """The calls that create or fill a file, or make folders above one."""
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        method = isinstance(call.func, ast.Attribute)
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        system = ast.unparse(call.func) == "os.open"
        checks = (
            method and name in WRITING,
            name in TEMPORARY,
            name == "mkdir" and any(key.arg == "parents" for key in call.keywords),
            system and any(isinstance(node, ast.Attribute) and node.attr in CREATING for node in ast.walk(call)),
            name in ("open", "fdopen") and not system and _writes(call),
        )
        if any(checks):
            yield "os.open" if system else name


def _writes(call: ast.Call) -> bool:
    """Whether one of the arguments is a mode such as "wb"."""
    values = [*call.args, *(key.value for key in call.keywords)]
    words = [value.value for value in values if isinstance(value, ast.Constant) and isinstance(value.value, str)]
    return any(set(word) <= set("rwaxbt+") and set(word) & set("wax+") for word in words)


def test_only_durable_writes_files() -> None:
    found = {
        (path.relative_to(ROOT).as_posix(), name)
        for path in SOURCES
        if path != ROOT / "trainer/common/durable.py"
        for name in offences(ast.parse(path.read_text()))
    }
    assert found - EXCEPTIONS.keys() == set(), "write with galore.trainer.common.durable, or name the reason here"
    assert EXCEPTIONS.keys() - found == set(), "no longer there"


@pytest.mark.parametrize(
    "code",
    [
        'path.write_text("x")',
        'open(name, "w")',
        'path.open("ab")',
        'path.open(mode="r+")',
        "model.save_pretrained(folder)",
        "path.mkdir(parents=True, exist_ok=True)",
        "os.open(path, os.O_CREAT | os.O_RDWR)",
        'os.fdopen(number, "wb")',
        "tempfile.mkdtemp()",
    ],
)
def test_the_lint_sees(code: str) -> None:
    assert list(offences(ast.parse(code)))


@pytest.mark.parametrize(
    "code", ['path.open("rb")', "open(name)", "save_pretrained(folder, model)", "path.mkdir()", "RunDir.open(folder)"]
)
def test_the_lint_lets_pass(code: str) -> None:
    assert not list(offences(ast.parse(code)))
