"""Tiles come from a table, never from a trial; the table is whole, and an override replaces it."""

import json

import pytest

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
    assert tuning.source().startswith("measured")
    other = Entry("lift", 4096, 11008, 256, True, "stochastic")
    assert tuning.tile_for(*other) != mine


def test_a_rank_between_goes_by_the_next_and_ragged_shapes_apart():
    assert tuning.key("lift", 4096, 4096, 192, False, "int8") == "lift medium left r256 int8"
    assert tuning.key("lift", 2048, 5461, 512, True, "int8") == "lift ragged right r512 int8"
