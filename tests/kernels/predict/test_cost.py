"""What a launch should take: never below the roofline, more for more work, and what the card holds at the same time."""

import pytest

pytest.importorskip("triton", reason="the kernels need the optional package triton")

from galore.kernels.predict import catalogue
from galore.kernels.predict.card import CARDS, RTX4090, card_named
from galore.kernels.predict.compiled import Resources
from galore.kernels.predict.cost import occupancy, predict, roofline
from galore.kernels.triton.tile import Tile

LIGHT = Resources(64, 0, 0, 24_576, 0, 16, 400, 65)


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


def test_cards_go_by_the_drivers_names():
    assert [card_named(card.name) for card in CARDS] == list(CARDS)
    assert card_named("NVIDIA GeForce RTX 4080") is None
