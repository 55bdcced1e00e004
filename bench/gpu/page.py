"""The records of a run as a summary for the terminal, and as a results page."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from gpu.proofs import PROOFS
from gpu.records import Record, Records, spoken

MOST_LINES = 60


def summary(records: Records) -> str:
    """At most 60 lines: per proof how it ended, first what failed, then figures as far as there is room."""
    found = list(records)
    ends = {record.proof: record for record in found if record.kind == "end"}
    rows = [record for record in found if record.kind == "figure"]
    heads = [
        _headline(name, ends.get(name), rows) for name in dict.fromkeys(r.proof for r in found if r.kind != "machine")
    ]
    wrong = [f"  {r.proof}: {r}" for r in rows if r.ok is False]
    rest = [f"  {r.proof}: {r}" for r in rows if r.ok is not False]
    room = MOST_LINES - len(heads) - 3
    lines = [line[:160] for line in [*wrong, *rest]]
    cut = len(lines) - room
    lines = lines if cut <= 0 else [*lines[: room - 1], f"  … {cut + 1} more in the records"]
    return "\n".join(["what was shown", *heads, "", *lines])


def _headline(name: str, end: Record | None, rows: Iterable[Record]) -> str:
    mine = [record for record in rows if record.proof == name]
    held, failed = (sum(record.ok is wanted for record in mine) for wanted in (True, False))
    ended = f"{end.what}, {end.figures.get('seconds', 0)} s" if end else "cut off"
    return f"  {name:10} {held} held, {failed} did not, {len(mine)} records; {ended}"


def page(records: Records) -> str:
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
