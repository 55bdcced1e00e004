"""The longest sequences by card, of LLaMA-1B to 70B: the table of docs/long-context.md. Traced, nothing is run.

    python bench/longest.py [ROW ...]

One search serves all cards: a length is traced once, as on an RTX 4090, and its total compared with what each card has.
Between traced lengths, and beyond the last one, memory is taken to grow by a line; the result is a multiple of 1,024.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from galore.trainer.fit.length.search import STEP, Search
from galore.trainer.machine.cards import card
from galore.trainer.recipe.load import load_recipe

CARDS = {"8 GB": "rtx3070", "12 GB": "rtx4070", "16 GB": "rtx4080", "24 GB": "rtx4090", "32 GB": "rtx5090"}
REFERENCE = "rtx4090"


@dataclass(frozen=True)
class Row:
    recipe: str
    settings: tuple[str, ...]
    lengths: tuple[int, ...]  # in units of 1,024 tokens


ROWS = {
    "1B": Row("llama-1b-8gb", (), (16, 64, 128)),
    "1B, 8-bit weights": Row("llama-1b-8gb", ("optim.weight_dtype=int8", "optim.projector_dtype=int4"), (16, 64, 128)),
    "7B, 8-bit weights": Row("llama-7b-12gb", (), (8, 48, 112)),
    "7B, the same, streamed": Row("llama-7b-12gb", ("train.stream_weights=true",), (8, 48, 112)),
    "13B, streamed": Row("llama-13b-24gb", ("train.stream_weights=true",), (8, 48, 96)),
    "32B, streamed": Row("llama-32b-24gb", (), (4, 24, 64)),
    "70B, streamed": Row("llama-70b-24gb", (), (4, 24, 64)),
}


def longest(totals: dict[int, float], room: float) -> int:
    """The longest whose total, on the line through the two nearest lengths that were traced, is within `room`."""
    lengths = sorted(totals)
    low = max((each for each in lengths[:-1] if totals[each] <= room), default=None)
    if low is None:
        return 0
    high = lengths[lengths.index(low) + 1]
    slope = (totals[high] - totals[low]) / (high - low)
    return int(low + (room - totals[low]) / slope) // STEP * STEP


def main() -> None:
    reference = card(REFERENCE)
    for name, row in ROWS.items():
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        search = Search(load_recipe(row.recipe, row.settings), reference)
        totals = {each * STEP: search.total(each * STEP) for each in row.lengths}
        cells = []
        for each in map(card, CARDS.values()):
            room = each.usable_low - each.context_high + reference.context_high
            found = longest(totals, room)
            cells.append(f"{found:,}" if found else "–")
        last = row.lengths[-1] * STEP
        step = search.duration(last)
        speed = "" if step is None else "{:,.0f}–{:,.0f}".format(*step.tokens_per_second)
        print(f"| {name} | {' | '.join(cells)} | {speed} at {last:,} |", flush=True)


if __name__ == "__main__":
    print(f"| model | {' | '.join(CARDS)} | tokens/s on an RTX 4090 |\n|---|{'---|' * (len(CARDS) + 1)}")
    main()
