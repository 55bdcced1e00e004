"""The records of a run as a summary for the terminal, and as a results page."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

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


@dataclass(frozen=True)
class Source:
    """A records file, and the proofs of it that a page shows; all where none is named."""

    file: Path
    proofs: tuple[str, ...] = ()

    @classmethod
    def of(cls, words: str) -> Source:
        """`FILE` or `FILE:proof,proof`."""
        file, _, proofs = words.partition(":")
        return cls(Path(file), tuple(proofs.split(",")) if proofs else ())

    def records(self) -> list[Record]:
        wanted = {"machine", *self.proofs}
        return [record for record in Records(self.file) if not self.proofs or record.proof in wanted]


def page(sources: Sequence[Source]) -> str:
    """Markdown: where the records are from, the machine, and one table per proof."""
    return "\n".join(_page(sources))


def _page(sources: Sequence[Source]) -> Iterator[str]:
    found = [record for source in sources for record in source.records()]
    machines = [record.figures for record in found if record.kind == "machine"] or [{}]
    name = machines[0].get("card", "no card: a rehearsal on the CPU")
    day = time.strftime("%Y-%m-%d", time.gmtime(found[0].time)) if found else ""
    yield f"# The proof on a card: {name}, {day}\n"
    yield from _origin(sources)
    for about in [about for at, about in enumerate(machines) if about not in machines[:at]]:
        yield ", ".join(f"{key} {spoken(value)}" for key, value in about.items()) + "\n"
    for source in sources:
        yield from _tables(source.records())


def _origin(sources: Sequence[Source]) -> Iterator[str]:
    """What was left out is said: a page of chosen proofs is edited, its figures are not."""
    made = "`make gpu`; this page is `python -m gpu page` of its records."
    if not any(source.proofs for source in sources):
        yield f"{made} Nothing here was edited.\n"
        return
    yield f"{made} The proofs were chosen, as follows; no record of theirs was left out or edited.\n"
    for source in sources:
        yield f"* `{source.file.name}`: {', '.join(source.proofs) or 'all'}"
    yield ""


def _tables(found: list[Record]) -> Iterator[str]:
    known = {proof.name: proof for proof in PROOFS}
    smoke = any(record.kind == "machine" and record.what == "smoke" for record in found)
    for name in dict.fromkeys(record.proof for record in found if record.kind != "machine"):
        proof = known.get(name)
        yield f"## {name}: {proof.shows if proof else 'its surroundings'}\n"
        if smoke or (proof and proof.beside):
            ran = "All proofs ran at once" if smoke else "It runs beside its neighbours"
            yield f"{ran}: seconds, and ratios of seconds, say nothing.\n"
        yield "| what | holds | figures |\n|---|---|---|"
        for record in [record for record in found if record.proof == name]:
            holds = {True: "yes", False: "**no**", None: ""}[record.ok]
            figures = ", ".join(f"{key} {spoken(value)}" for key, value in record.figures.items())
            yield f"| {_cell(record.what)} | {holds} | {_cell(figures)} |"
        yield ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
