"""Tiles come from a table, never from a trial; the table is whole, an override replaces it, predictions add up."""

import json

import pytest
import torch
from kernel_machines import Interpreter

from galore.kernels.predict import catalogue
from galore.kernels.predict.candidates import Entry, entries
from galore.kernels.predict.card import RTX4090
from galore.kernels.predict.compiled import Resources
from galore.kernels.predict.cost import occupancy, predict, roofline
from galore.kernels.predict.sequences import floor, reference, total, unfused, unfused_nearest
from galore.kernels.triton import tuning
from galore.kernels.triton.tile import Tile

LIGHT = Resources(64, 0, 0, 24_576, 0, 16, 400, 65)


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


def test_occupancy_is_what_the_scarcest_resource_allows():
    assert occupancy(LIGHT, 8, RTX4090) == 4  # registers: 65536 / (64·32·8)
    assert occupancy(Resources(32, 0, 0, 50_000, 0, 0, 100, 0), 4, RTX4090) == 2  # shared memory
    assert occupancy(Resources(16, 0, 0, 0, 0, 0, 100, 0), 8, RTX4090) == 6  # warps
    assert occupancy(Resources(255, 0, 0, 0, 0, 0, 100, 0), 8, RTX4090) == 1


def test_a_prediction_is_never_below_the_roofline_and_grows_with_the_work():
    seconds = []
    for r in (128, 256, 512, 1024):
        (launch,) = catalogue.lift(4096, 11008, r, "stochastic", tile=Tile(128, 128, 32, 8, 3))
        seconds.append(predict(launch, LIGHT, RTX4090).seconds)
        assert seconds[-1] > roofline(launch.flops, launch.bytes, RTX4090)
    assert seconds == sorted(seconds)
    (few,) = catalogue.project(4096, 512, 64, tile=Tile(64, 128, 32, 8, 3))  # 4 programs on 128 multiprocessors
    split, _ = catalogue.project(4096, 512, 64, tile=Tile(64, 128, 32, 8, 3, split=8))
    assert predict(split, LIGHT, RTX4090).seconds < predict(few, LIGHT, RTX4090).seconds


def test_sequences_count_the_bytes_that_their_steps_move():
    """At r = 128 the fp32 product costs what the table says: 12 bytes of traffic per weight against 4."""
    a, b, r = 4096, 11008, 128
    lift = sum(step.bytes for step in unfused(a, b, r)[2:])
    assert lift / unfused_nearest(a, b, r)[-1].bytes == pytest.approx(3, rel=0.02)
    times = [total(steps(a, b, r), RTX4090) for steps in (unfused_nearest, unfused, reference)]
    assert floor(a, b, r, RTX4090) < times[0] < times[1] < times[2]


def test_tuning_times_clones_and_keeps_the_fastest(own_config):
    """On the interpreter with a clock of its own, since there is no GPU: states of the caller are never the operands."""
    machine = Interpreter()
    measure = machine.kernels.measure
    entry = measure.Entry("lift", 64, 128, 16, False, "stochastic")
    wanted, asked = measure.tiles(entry)[1], []

    def clock(call):
        asked.append(call)
        if len(asked) == 1:
            call()  # real memory, really computed
        return 1.0 if len(asked) == measure.tiles(entry).index(wanted) + 1 else 2.0

    shown = []
    with machine.ready():
        found = measure.tune([entry], torch.device("cpu"), clock, lambda *line: shown.append(line))
    assert found == {entry.key: wanted}
    assert len(asked) == len(measure.tiles(entry))
    assert len(shown) == 1


@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="times kernels on a GPU; its twin above has a clock of its own"
)
def test_on_a_gpu_measured_times_are_positive():
    from galore.kernels.predict.timed import measured

    assert all(row["ours"] > 0 for row in measured(torch.device("cuda"))[:1])
