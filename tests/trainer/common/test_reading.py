"""Whatever lies at a path that is read, the answer is there at once: a pipe is not waited for, a device is not read."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from galore.trainer.checkpoint.checkpoint import newest_verified
from galore.trainer.checkpoint.manifest import NAME
from galore.trainer.common.errors import UserError
from galore.trainer.common.reading import (
    NotReadable,
    is_there,
    open_regular,
    read_bounded,
    require_plain_folder,
    user_path,
)
from galore.trainer.data.formats.bytestream import opened
from galore.trainer.data.glue.locate import find_split
from galore.trainer.data.glue.readers import read_split
from galore.trainer.data.text.locate import find_files
from galore.trainer.data.tokens.cache import file_digests
from galore.trainer.data.tokens.tokenizer import load_tokenizer
from galore.trainer.models.pretrained import read_config
from galore.trainer.recipe.load import load_recipe, recipe_of_run
from galore.trainer.record.metrics import read_rows
from galore.trainer.record.rundir import RunDir
from galore.trainer.tasks.glue import TASKS
from galore.trainer.trained.runmodel import load_run_model

SECONDS = 3.0
ROOM = 2**30  # bytes of address space that a read may take
SMALL = "data: {source: packaged}\ntrain: {max_steps: 10}\n"


@contextmanager
def at_once() -> Iterator[None]:
    """Fails where the body waits, or takes a gigabyte."""

    def late(*_: object) -> None:
        raise AssertionError("it waits")

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before, limits = signal.signal(signal.SIGALRM, late), resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, limits[1]))
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.signal(signal.SIGALRM, before)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        here = Path.cwd()
        os.chdir(path.parent)  # its address has 108 bytes
        made.bind(path.name)
        os.chdir(here)


KINDS: dict[str, Callable[[Path], Any]] = {
    "pipe": os.mkfifo,
    "zero": lambda path: path.symlink_to("/dev/zero"),
    "urandom": lambda path: path.symlink_to("/dev/urandom"),
    "folder": Path.mkdir,
    "socket": _socket,
}


@pytest.fixture(params=KINDS)
def put(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], Path]:
    """Puts something that is no regular file at a name in the temporary folder."""

    def make(name: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        KINDS[request.param](path)
        return path

    return make


def test_no_regular_file(put: Callable[[str], Path]) -> None:
    path = put("x")
    with at_once(), pytest.raises(NotReadable, match="not a regular file"):
        open_regular(path)


def test_a_limit_is_a_limit(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"12345")
    assert read_bounded(tmp_path / "x", 5) == b"12345"
    with pytest.raises(NotReadable, match="has more than 4 bytes"):
        read_bounded(tmp_path / "x", 4)
    with at_once(), (tmp_path / "sparse").open("wb") as file:
        file.truncate(2**40)
    with at_once(), pytest.raises(NotReadable, match="has more than"):
        read_bounded(tmp_path / "sparse")


def test_links_are_followed_unless_not_wanted(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"1")
    (tmp_path / "link").symlink_to("x")
    assert read_bounded(tmp_path / "link") == b"1"
    with pytest.raises(NotReadable, match="is a link"):
        open_regular(tmp_path / "link", follow=False)


def test_names_that_cannot_be() -> None:
    assert not is_there(Path("a" * 300))
    assert not is_there(Path("a\0b"))
    assert user_path("~nosuchuser/x") == Path("~nosuchuser/x")
    assert user_path("~/x") == Path.home() / "x"


# Every path that somebody gives, or that lies in a folder that somebody gives.


def test_recipe(put: Callable[[str], Path]) -> None:
    with at_once(), pytest.raises(UserError, match=r"not a regular file|is a folder, not a recipe"):
        load_recipe(str(put("r.yaml")))


def test_parent_of_a_recipe(put: Callable[[str], Path], tmp_path: Path) -> None:
    put("parent.yaml")
    (tmp_path / "r.yaml").write_text("extends: parent.yaml\n" + SMALL)
    with at_once(), pytest.raises(UserError, match=r"not a regular file|is a folder, not a recipe"):
        load_recipe(str(tmp_path / "r.yaml"))


def test_data_path(put: Callable[[str], Path], tmp_path: Path) -> None:
    path = put("x.jsonl")
    with at_once(), pytest.raises(UserError, match=r"not a regular file|the folder .* is empty"):
        find_files(str(path), tmp_path, "auto", "data.path")
    with at_once(), pytest.raises(UserError, match="not a regular file"), opened(path):
        pass
    with at_once(), pytest.raises(UserError, match="not a regular file"):
        file_digests([path], tmp_path / "cache", lambda *_: None)


def test_devices_by_their_own_names(tmp_path: Path) -> None:
    for name in ("/dev/zero", "/dev/urandom", "/dev/null"):
        with at_once(), pytest.raises(UserError, match="is a device, not a regular file"):
            load_recipe(name)
        with at_once(), pytest.raises(UserError, match="is a device, not a regular file"):
            find_files(name, tmp_path, "txt", "data.path")


def test_what_a_run_keeps(put: Callable[[str], Path], tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    for path in (run.recipe, run.metrics, run.facts):
        put(path.name)
    with at_once():
        assert run.read_facts() == {}
        with pytest.raises(UserError, match=r"not a regular file|is a folder"):
            recipe_of_run(run.recipe)
        with pytest.raises(NotReadable):
            list(read_rows(run.metrics))
    with at_once(), pytest.raises(UserError):
        load_run_model(str(tmp_path))


def test_a_manifest(put: Callable[[str], Path], tmp_path: Path) -> None:
    put(f"step-00000001/{NAME}")
    with at_once():
        checkpoint, skipped = newest_verified(tmp_path)
    assert checkpoint is None
    assert "not a regular file" in skipped[0].reason


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"])
def test_the_folder_of_a_model(put: Callable[[str], Path], tmp_path: Path, tiny_roberta: Path, name: str) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_roberta, model)
    (model / name).unlink(missing_ok=True)
    path = put(f"model/{name}")
    if path.is_dir():
        return  # the library says what it does not find
    with at_once(), pytest.raises(UserError, match="not a regular file"):
        read_config(str(model), None)
    with at_once(), pytest.raises(UserError, match="not a regular file"):
        load_tokenizer(str(model), None, tmp_path, "data.tokenizer")
    with at_once(), pytest.raises(UserError, match="not a regular file"):
        load_run_model(str(model))


def test_a_folder_of_glue(put: Callable[[str], Path], tmp_path: Path) -> None:
    put("SST-2/train/0000.parquet")
    put("SST-2/dev.tsv")
    with at_once(), pytest.raises(UserError, match="not a regular file"):
        read_split(TASKS["sst2"], "train", tmp_path / "SST-2")
    with at_once(), pytest.raises(UserError):
        find_split(TASKS["sst2"], "validation", tmp_path / "SST-2")


def test_a_line_of_metrics_without_end(tmp_path: Path) -> None:
    with (tmp_path / "m.jsonl").open("wb") as file:
        file.write(json.dumps({"step": 1}).encode() + b"\n")
        file.truncate(2**26)
    with at_once():
        assert list(read_rows(tmp_path / "m.jsonl")) == [{"step": 1}]


@pytest.mark.parametrize(("name", "refused"), [("config.json", True), ("merges.txt", True), ("README.md", False)])
def test_a_pipe_in_a_folder_of_a_model_is_refused_where_a_library_may_read_it(
    tmp_path: Path, name: str, refused: bool
) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(NotReadable, match="is a pipe") if refused else nullcontext():
        require_plain_folder(str(tmp_path))
