"""The table by prediction: a kernel is compiled once for all numbers it may be given, and the fastest tile that fits is taken."""

from types import SimpleNamespace

import pytest

pytest.importorskip("triton", reason="the kernels need the optional package triton")

from galore.kernels.predict import catalogue, predicted
from galore.kernels.predict.candidates import Entry, tiles
from galore.kernels.predict.compiled import Resources
from galore.kernels.predict.predicted import Predictor, best, table

ENTRY = Entry("lift", 2048, 2048, 256, False, "stochastic")
LIGHT = Resources(64, 0, 0, 24_576, 0, 16, 400, 65)


@pytest.fixture
def compiled(monkeypatch):
    """Launches that are compiled; nothing really is."""
    found = []
    monkeypatch.setattr(
        predicted,
        "compile_launch",
        lambda launch, capability: found.append((launch, capability)) or SimpleNamespace(resources=LIGHT),
    )
    return found


def test_code_that_differs_by_numbers_alone_is_compiled_once(compiled):
    predictor, tile = Predictor(), tiles(ENTRY)[0]
    lift = lambda a, b, r, **how: predictor.seconds(catalogue.lift(a, b, r, "stochastic", tile=tile, **how))  # noqa: E731
    assert lift(2048, 4096, 256) > lift(2048, 2048, 256) > 0
    assert [capability for _, capability in compiled] == [89]
    lift(2048, 2048, 256, transposed=True)
    lift(2048, 2049, 256)  # divides by 16 no more
    lift(2048, 2048, 256, bits=4)
    assert len(compiled) == 4
    predictor.seconds(catalogue.lift(2048, 2048, 256, "nearest", tile=tile))
    predictor.seconds(catalogue.lift(2048, 2048, 256, "stochastic", tile=tiles(ENTRY)[-1]))
    assert len(compiled) == 6


def test_launches_follow_one_another(compiled):
    predictor, plan = Predictor(), catalogue.adam(2048, 256, "dynamic")
    assert predictor.seconds(plan * 3) == pytest.approx(3 * predictor.launch(plan[0]).seconds)


def chosen(used):
    """Of tiles that take ever less time, the one that `used` (number → resources) leaves."""
    numbers = {tile: number for number, tile in enumerate(tiles(ENTRY))}

    def number(launch):
        return next(n for tile, n in numbers.items() if tile.constants().items() <= launch.constants.items())

    predictor = SimpleNamespace(
        resources=lambda launch: used.get(number(launch), LIGHT), seconds=lambda plan: -number(plan[0])
    )
    return numbers[best(predictor, ENTRY)[0]]


def test_the_fastest_tile_that_spills_nothing_and_fits_is_taken():
    last = len(tiles(ENTRY)) - 1
    assert chosen({}) == last
    for wrong in ({"spills": 1}, {"stack": 8}, {"shared": 101_377}):
        assert chosen({last: Resources(**(vars(LIGHT) | wrong))}) == last - 1
    tight = Resources(**(vars(LIGHT) | {"registers": predicted.REGISTERS + 1}))
    assert chosen({last: tight}) == last - 1
    assert chosen(dict.fromkeys(range(last + 1), tight)) == last  # better than none


def test_every_entry_gets_a_tile_and_progress_is_told_apart(monkeypatch, compiled, capsys):
    monkeypatch.setattr(predicted, "entries", lambda: iter([ENTRY, ENTRY._replace(transposed=True)]))
    found = list(table(Predictor()))
    assert [entry.transposed for entry, _, _ in found] == [False, True]
    assert all(tile in tiles(entry) and seconds > 0 for entry, tile, seconds in found)
    told = capsys.readouterr()
    assert (told.out, ENTRY.key in told.err) == ("", True)
