"""The records of a run as a summary for the terminal, and as a results page."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from gpu.proofs import PROOFS
from gpu.records import Record, Records, spoken

MOST_LINES, MOST_LETTERS = 60, 220
ESSENTIAL = {  # proof → parts of the names of the records that a summary has before others
    "kernels": ("products of", "tests", "self-test", "doctor"),
    "memory": ("7b-24gb, segments g", "13b-24gb, segments g", "7b-16gb", "7b-12gb", "1b-8gb", "350m"),
    "exact": ("kill -9", "equal bits", "8 × 1", "one order"),
    "speed": ("ours, fused", "tokens per second"),
    "matmul": ("tokens per second", "both products"),
    "fused": ("tokens per second", "both ways"),
    "floor": ("4096×11008", "4096×4096"),
}
TITLES = {
    "rehearsal": "what was rehearsed: times and ratios of tiny shapes on a CPU say nothing",
    "smoke": "what was tried, all at once: times and ratios say nothing",
}


def summary(records: Records) -> str:
    """At most 60 lines: per proof how it ended, first what failed, then of every proof as many figures as there is room for."""
    found = list(records)
    ends = {record.proof: record for record in found if record.kind == "end"}
    rows = [record for record in found if record.kind == "figure"]
    heads = [
        _headline(name, ends.get(name), rows) for name in dict.fromkeys(r.proof for r in found if r.kind != "machine")
    ]
    room = MOST_LINES - len(heads) - 4
    wrong = [record for record in rows if record.ok is False][: room // 2]
    rest = _of_each([record for record in rows if record.ok is not False], room - len(wrong))
    lines = [f"  {record.proof}: {record}"[:MOST_LETTERS] for record in (*wrong, *rest)]
    cut = len(rows) - len(lines)
    kind = next((record.what for record in found if record.kind == "machine"), "")
    return "\n".join(
        [TITLES.get(kind, "what was shown"), *heads, "", *lines, *([f"  … {cut} more in the records"] if cut else [])]
    )


def _of_each(rows: list[Record], count: int) -> list[Record]:
    """`count` records, one of each proof in turn, its essential ones first; in their old order."""
    ranked = []
    for name in dict.fromkeys(record.proof for record in rows):
        parts = ESSENTIAL.get(name, ())
        mine = [
            (next((rank for rank, part in enumerate(parts) if part in record.what), len(parts)), at)
            for at, record in enumerate(rows)
            if record.proof == name
        ]
        ranked += [(turn, at) for turn, (_, at) in enumerate(sorted(mine))]
    return [rows[at] for at in sorted(at for _, at in sorted(ranked)[: max(0, count)])]


def _headline(name: str, end: Record | None, rows: Iterable[Record]) -> str:
    mine = [record for record in rows if record.proof == name]
    held, failed = (sum(record.ok is wanted for record in mine) for wanted in (True, False))
    ended = f"{end.what}, {end.figures.get('seconds', 0)} s" if end else "cut off"
    return f"  {name:10} {held} held, {failed} did not, {len(mine)} records; {ended}"


def page(records: Iterable[Record]) -> str:
    """Markdown: the machine, and one table per proof."""
    return "\n".join(_page(list(records)))


def _page(found: list[Record]) -> Iterator[str]:
    machine = next((record for record in found if record.kind == "machine"), None)
    about = machine.figures if machine else {}
    name = about.get("card", "no card: a rehearsal on the CPU")
    day = time.strftime("%Y-%m-%d", time.gmtime(found[0].time)) if found else ""
    yield f"# The proof on a card: {name}, {day}\n"
    yield "`make gpu`; this page is `python -m gpu page` of its records. Nothing here was edited.\n"
    yield ", ".join(f"{key} {spoken(value)}" for key, value in about.items()) + "\n"
    shows = {proof.name: proof.shows for proof in PROOFS}
    for proof in dict.fromkeys(record.proof for record in found if record.kind != "machine"):
        mine = [record for record in found if record.proof == proof]
        yield f"## {proof}: {shows.get(proof, 'its surroundings')}\n"
        yield "| what | holds | figures |\n|---|---|---|"
        for record in mine:
            holds = {True: "yes", False: "**no**", None: ""}[record.ok]
            figures = ", ".join(f"{key} {spoken(value)}" for key, value in record.figures.items())
            yield f"| {_cell(record.what)} | {holds} | {_cell(figures)} |"
        yield ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
