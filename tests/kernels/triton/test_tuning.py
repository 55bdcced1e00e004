"""Tiles come from a table, never from a trial; the table is whole, and an override replaces it."""

import json
import os
from pathlib import Path

import pytest
import torch

from galore.kernels.ops.paths import Problem, explain, summary
from galore.kernels.predict.candidates import Entry, entries
from galore.kernels.triton import tuning
from galore.kernels.triton.tile import Tile


@pytest.fixture
def own_config(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    tuning.table.cache_clear()
    yield tmp_path
    tuning.table.cache_clear()


def test_every_class_has_a_predicted_tile_and_no_tile_is_idle(own_config):
    assert {entry.key for entry in entries()} == tuning.table().keys()
    note = json.loads(tuning.PREDICTED.read_text())["note"]
    assert "predicted" in note
    assert "not timed" in note


def test_a_measured_table_of_the_user_comes_first(own_config):
    mine, entry = Tile(16, 64, 32, 4, 2), Entry("lift", 4096, 11008, 256, False, "stochastic")
    assert tuning.tile_for(*entry) != mine
    tuning.write(tuning.override_path(), {entry.key: mine}, "measured")
    assert tuning.tile_for(*entry) == mine
    assert tuning.origin() == ("measured", str(tuning.override_path()))
    other = Entry("lift", 4096, 11008, 256, True, "stochastic")
    assert tuning.tile_for(*other) != mine


def test_a_rank_between_goes_by_the_next_and_ragged_shapes_apart():
    assert tuning.key("lift", 4096, 4096, 192, False, "int8") == "lift medium left r256 int8"
    assert tuning.key("lift", 2048, 5461, 512, True, "int8") == "lift ragged right r512 int8"


TILE = {"rows": 64, "columns": 64, "depth": 32, "warps": 4, "stages": 3}
BAD = {
    "empty": ("", "Expecting value"),
    "cut off": ('{"note": "x", "tiles": {', "Expecting property name"),
    "bits": (b"\xff\xfe\x00", "utf-8"),
    "a list": ("[]", "no tiles"),
    "no tiles": ('{"note": "x"}', "no tiles"),
    "tiles that are none": ('{"tiles": [1]}', "no tiles"),
    "nested": ("[" * 100_000, "recursion"),
    "a tile that is none": ({"tiles": {"lift": 3}}, "a tile has rows"),
    "another field": ({"tiles": {"lift": TILE | {"foo": 1}}}, "foo"),
    "a field less": ({"tiles": {"lift": {"rows": 64}}}, "a tile has rows"),
    "a word": ({"tiles": {"lift": TILE | {"rows": "64"}}}, "'64' rows"),
    "no power of two": ({"tiles": {"lift": TILE | {"depth": 48}}}, "48 depth"),
    "no whole number": ({"tiles": {"lift": TILE | {"warps": True}}}, "True warps"),
    "none": ({"tiles": {"lift": TILE | {"split": 0}}}, "0 split"),
}


@pytest.fixture
def predicted(own_config):
    return json.loads(tuning.PREDICTED.read_text())["tiles"].keys()


@pytest.mark.parametrize("kind", BAD)
def test_a_table_that_cannot_be_used_leaves_the_predicted_one_and_it_is_told(predicted, kind):
    content, reason = BAD[kind]
    path = tuning.override_path()
    path.parent.mkdir()
    text = content if isinstance(content, str | bytes) else json.dumps(content)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert tuning.table().keys() == predicted
    told = ", ".join(tuning.origin())
    assert told.startswith(f"predicted for the RTX 4090, not timed; {path} is not gone by (")
    assert reason in told
    assert "delete it" in told


def test_whoever_looks_is_told_and_so_is_a_run_that_it_concerns(own_config):
    problem = Problem((64, 96), 8, torch.bfloat16, "dynamic")
    assert [(each.path, each.why) for each in explain("cuda") if each.op == "tiles"] == [tuning.origin()]
    assert not any(line.startswith("tiles: ") for line in summary("cuda", [problem]))
    tuning.override_path().mkdir(parents=True)
    assert sum(line.startswith("tiles: ") and "it is no file" in line for line in summary("cuda", [problem])) == 1
    assert not any(line.startswith("tiles: ") for line in summary("cpu", [problem]))


def test_a_table_that_may_not_be_read(predicted, monkeypatch):
    tuning.write(tuning.override_path(), {}, "")

    def refused(path, *args, **kwargs):
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "exists", refused)
        assert "(Permission denied)" in tuning.refusal()
        patched.undo()
        patched.setattr(Path, "read_text", refused)
        assert "(Permission denied)" in tuning.refusal()
    assert tuning.refusal() == ""


def test_without_a_home_directory_tiles_are_the_predicted_ones(predicted, monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    assert tuning.table().keys() == predicted
    assert "no place: Could not determine home directory. Set XDG_CONFIG_HOME" in tuning.origin()[1]


def test_a_table_is_on_the_disk_before_it_has_its_name(own_config, monkeypatch):
    seen = []
    real_sync, real_replace = os.fsync, Path.replace
    monkeypatch.setattr(
        os, "fsync", lambda fd: (seen.append(Path(f"/proc/self/fd/{fd}").readlink().name), real_sync(fd))
    )
    monkeypatch.setattr(Path, "replace", lambda old, new: (seen.append("replace"), real_replace(old, new)))
    tuning.write(tuning.override_path(), {"lift": Tile(**TILE)}, "")
    assert seen == [".kernels.json.tmp", "replace", "galore"]
