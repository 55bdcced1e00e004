"""What one update of a matrix takes by our kernels, by the best sequence of library calls, and by the official package.

Each sequence is a list of steps with FLOPs and bytes of memory traffic, so that the arithmetic can be read. m·n
elements of the weight, a·r of P, r·b of R; bf16 weights and gradients, moments in 8 bits with one fp32 absmax per 256.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from galore.kernels.predict import catalogue
from galore.kernels.predict.card import Card
from galore.kernels.predict.cost import roofline
from galore.kernels.predict.predicted import Predictor
from galore.kernels.triton.launch import Launch

STATES = 2 * (1 + 4 / 256)  # bytes per element of both moments


@dataclass(frozen=True)
class Step:
    """One kernel of a library, as its operands say; taken to reach the card's shares of its peaks."""

    what: str
    flops: float
    bytes: float

    def seconds(self, card: Card) -> float:
        tensor = self.flops / (card.tensor_flops["bf16"] * card.tensor_share)
        return max(tensor, self.bytes / (card.memory_bandwidth * card.memory_share)) + card.launch


def unfused(a: int, b: int, r: int) -> list[Step]:
    """cuBLAS and one-pass kernels, rounding stochastically: the product has to exist in fp32."""
    mn, p, low = a * b, a * r, r * b
    return [
        Step("R = Pᵀ G, fp32", 2.0 * mn * r, 2 * mn + 2 * p + 4 * low),
        Step("Adam on 8-bit moments, one pass", 0, 4 * low + 2 * STATES * low + 2 * low),
        Step("U = P N, fp32", 2.0 * mn * r, 2 * p + 2 * low + 4 * mn),
        Step("W ← round(W + U)", 0, 4 * mn + 2 * mn + 2 * mn),
    ]


def unfused_nearest(a: int, b: int, r: int) -> list[Step]:
    """`unfused` to nearest, which loses updates below half a place of bf16: addmm_ needs no product in memory."""
    mn, p, low = a * b, a * r, r * b
    return [*unfused(a, b, r)[:2], Step("addmm_(W, P, N)", 2.0 * mn * r, 2 * p + 2 * low + 4 * mn)]


def reference(a: int, b: int, r: int) -> list[Step]:
    """galore-torch's 8-bit AdamW in the order of its code, projection and lift in bf16."""
    mn, p, low = a * b, a * r, r * b
    return [
        Step("W.clone()", 0, 4 * mn),
        Step("R = Pᵀ G, bf16", 2.0 * mn * r, 2 * mn + 2 * p + 2 * low),
        Step("W takes R's shape, zeroed", 0, 2 * low),
        Step("bitsandbytes' 8-bit Adam", 0, 2 * low + 4 * low + 2 * STATES * low),
        Step("U = P N, bf16", 2.0 * mn * r, 2 * p + 2 * low + 2 * mn),
        Step("U · α", 0, 4 * mn),
        Step("W + U", 0, 6 * mn),
    ]


def floor(a: int, b: int, r: int, card: Card) -> float:
    """Seconds that no sequence can beat: both products with what they must read and write, at published peaks."""
    mn, p, low = a * b, a * r, r * b
    project = roofline(2.0 * mn * r, 2 * mn + 2 * p + 2 * STATES * low + 2 * low, card)
    return project + roofline(2.0 * mn * r, 4 * mn + 2 * p + 2 * low, card)


def total(steps: list[Step], card: Card) -> float:
    """Seconds of steps one after another."""
    return sum(step.seconds(card) for step in steps)


def ours(a: int, b: int, r: int) -> list[Launch]:
    """Adam and the lift with the tiles of the table; R comes before them from cuBLAS, the first step of `unfused`."""
    return [*catalogue.adam(b, r, "dynamic"), *catalogue.lift(a, b, r, "stochastic")]


LLAMA_7B = {(4096, 4096): 4 * 32, (4096, 11008): 3 * 32}  # (a, b) of projected matrices, and how many there are
RANKS = (128, 256, 512, 1024)


@dataclass(frozen=True)
class Row:
    """Microseconds of one update of one matrix."""

    a: int
    b: int
    r: int
    floor: float
    ours: float
    unfused: float
    nearest: float
    reference: float

    @property
    def roofline(self) -> float:
        """Share of the floor that ours reaches."""
        return self.floor / self.ours


def rows(predictor: Predictor) -> list[Row]:
    """A row for each shape of LLaMA-7B and rank."""
    return [_row(predictor, a, b, r) for a, b in LLAMA_7B for r in RANKS]


TOKENS = 131_072  # of a step, as the recipes of LLaMA-7B have it
MATRICES = sum(LLAMA_7B.values())


def all_matrices(found: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """Milliseconds of one update of every projected matrix, for each rank, from microseconds of one of each shape."""
    times = [name for name in found[0] if name not in ("a", "b", "r", "share of the floor")]
    ranks = dict.fromkeys(row["r"] for row in found)
    return [
        {"r": r}
        | {
            name: sum(LLAMA_7B[int(row["a"]), int(row["b"])] * row[name] / 1e3 for row in found if row["r"] == r)
            for name in times
        }
        for r in ranks
    ]


def step_seconds(card: Card) -> float:
    """Forward and backward of TOKENS tokens through LLaMA-7B, at the share of the card's peak that products reach."""
    weights = sum(a * b * count for (a, b), count in LLAMA_7B.items()) + 32_000 * 4096
    return 6.0 * weights * TOKENS / (card.tensor_flops["bf16"] * card.tensor_share)


def _row(predictor: Predictor, a: int, b: int, r: int) -> Row:
    card = predictor.card
    own = total(unfused(a, b, r)[:1], card) + predictor.seconds(ours(a, b, r))
    others = [total(steps(a, b, r), card) for steps in (unfused, unfused_nearest, reference)]
    return Row(a, b, r, *(1e6 * seconds for seconds in (floor(a, b, r, card), own, *others)))
