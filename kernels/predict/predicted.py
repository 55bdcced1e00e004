"""The table of tiles by prediction: every candidate compiled once for each kind of operand, weighed on every shape."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from galore.kernels.predict.candidates import Entry, entries, tiles
from galore.kernels.predict.card import RTX4090, Card
from galore.kernels.predict.compiled import Resources, compile_launch
from galore.kernels.predict.cost import Prediction, predict
from galore.kernels.triton.launch import Launch
from galore.kernels.triton.tile import Tile

REGISTERS = 248  # per thread, of 255: what one compiler gets into 255, the next one spills


class Predictor:
    """Predicts plans; code that differs by nothing but the numbers it is given is compiled once."""

    def __init__(self, card: Card = RTX4090) -> None:
        self.card = card
        self._known: dict[str, Resources] = {}

    def launch(self, launch: Launch) -> Prediction:
        return predict(launch, self.resources(launch), self.card)

    def seconds(self, plan: list[Launch]) -> float:
        """Seconds of launches one after another."""
        return sum(self.launch(each).seconds for each in plan)

    def resources(self, launch: Launch) -> Resources:
        kinds = {name: _kind(value) for name, value in launch.arguments.items()}
        name = repr((launch.name, kinds, sorted((k, str(v)) for k, v in launch.constants.items()), launch.warps))
        if name not in self._known:
            self._known[name] = compile_launch(launch, self.card.capability).resources
        return self._known[name]


def _kind(value: object) -> str:
    """What of an argument the code is specialized on."""
    if value is None or isinstance(value, float):
        return str(type(value))
    if isinstance(value, int):
        return "1" if value == 1 else "16" if value % 16 == 0 else "any"
    return str(getattr(value, "dtype", value))


def best(predictor: Predictor, entry: Entry) -> tuple[Tile, float]:
    """The tile that should take least, among those that spill nothing and, if there are, leave registers to spare."""
    found = []
    for tile in tiles(entry):
        plan = entry.plan(tile)
        used = [predictor.resources(launch) for launch in plan]
        if all(map(_fits, used)):
            tight = any(each.registers > REGISTERS for each in used)
            found.append((tight, predictor.seconds(plan), tile))
    _, seconds, tile = min(found, key=lambda each: each[:2])
    return tile, seconds


def _fits(used: Resources) -> bool:
    return used.spills == 0 and used.stack == 0 and used.shared <= 101_376


def table(predictor: Predictor) -> Iterator[tuple[Entry, Tile, float]]:
    """Every entry with its tile and seconds; progress goes to stderr."""
    for number, entry in enumerate(entries()):
        tile, seconds = best(predictor, entry)
        print(f"\r{number} {entry.key:<60}", end="", file=sys.stderr, flush=True)
        yield entry, tile, seconds
