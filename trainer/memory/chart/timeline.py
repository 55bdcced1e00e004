"""The memory of a run over time as one HTML page that needs nothing else: a chart to point at, and tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from galore.trainer.common.format import percent, size
from galore.trainer.common.page import filled, read_part
from galore.trainer.memory.categories import COLORS, MEANING, spoken
from galore.trainer.memory.chart.curve import curve
from galore.trainer.memory.chart.instants import embedded, told
from galore.trainer.memory.peak import Holder
from galore.trainer.memory.profile import Profile
from galore.trainer.memory.verdict import VERDICTS, place, reason, span, unit_of

FOLDER = Path(__file__).parent / "timeline-page"
SCRIPTS = ("data.js", "chart.js", "moment.js", "hands.js")  # in this order
HOLDERS = 10  # at the peak
MOODS = {True: "good", False: "bad", None: "unsure"}


def page(profile: Profile, title: str) -> str:
    """The page of `profile`; `title` is what was profiled, such as "llama-7b on RTX 4090". Some 1 MB for any trace."""
    peak = profile.peak
    values = {
        "title": escape(title),
        "style": read_part(FOLDER / "page.css"),
        "script": "\n".join(read_part(FOLDER / name) for name in SCRIPTS),
        "mood": MOODS[profile.fits],
        "verdict": f"{VERDICTS[profile.fits]}.",
        "because": reason(profile),
        "facts": "\n".join(_fact(*fact) for fact in _facts(profile)),
        "unit": unit_of(profile)[1],
        "where": escape(f"In the {place(peak)}, when {peak.op} asks for more."),
        "categories": _categories(profile),
        "holders": _holders(profile),
        "phases": _phases(profile),
        "basis": escape(f"Sizes are predicted, at upper bounds where there are two. The card's: {profile.card.basis}."),
        "data": embedded(profile, curve(profile)),
    }
    return filled(FOLDER / "page.html", values)


def _facts(profile: Profile) -> list[tuple[str, str, str]]:
    """(what, how much, remark) for the head of the page."""
    peak, card = profile.peak, profile.card
    setting = {profile.expandable: "with this run's setting", not profile.expandable: "with the other setting"}
    return [
        ("Total, as nvidia-smi shows", span(profile.total), f"{_share(profile, profile.total.high)} of the card"),
        ("Allocated at the peak", span(profile.allocated), "handed out to tensors"),
        ("Reserved, default segments", span(profile.reserved(False)), setting[False]),
        ("Reserved, expandable segments", span(profile.reserved(True)), setting[True]),
        ("Card", span(profile.limit), card.name),
        ("At the peak", place(peak), peak.op),
    ]


def _fact(what: str, much: str, remark: str) -> str:
    return f"<div><dt>{escape(what)}</dt><dd><strong>{escape(much)}</strong><small>{escape(remark)}</small></dd></div>"


def _maker(op: str, module: str) -> str:
    return " in ".join(filter(None, (op, module)))


def _categories(profile: Profile) -> str:
    def row(name: str, nbytes: int) -> Sequence[str]:
        swatch = f'<span class="swatch" style="background:{COLORS[name]};border-color:{COLORS[name]}"></span>'
        meaning = f"<br><small>{escape(MEANING[name])}</small>"
        return (swatch + escape(spoken(name)) + meaning, _told(profile, nbytes), _share(profile, nbytes))

    rows = [row(name, nbytes) for name, nbytes in profile.categories.items() if nbytes]
    total = ("total", _told(profile, profile.total.high), _share(profile, profile.total.high))
    return _table(("category", unit_of(profile)[1], "of the card"), rows, total)


def _holders(profile: Profile) -> str:
    def row(each: Holder) -> Sequence[str]:
        maker = _maker(told(each.category, each.op), each.module)
        tensors = escape(spoken(each.category)) + (f"<br><small>{escape(maker)}</small>" if maker else "")
        shape = " × ".join(map(str, each.shape)) or "scalar"
        return (tensors, escape(f"{shape} {each.dtype}"), f"{each.count:,}", size(each.nbytes))

    rows = [row(each) for each in profile.peak.holders[:HOLDERS]]
    return _table(("tensors", "shape", "count", "size"), rows)


def _phases(profile: Profile) -> str:
    rows = [(escape(name), _told(profile, nbytes)) for name, nbytes in profile.phases.items()]
    return _table(("phase", unit_of(profile)[1]), rows)


def _told(profile: Profile, nbytes: int) -> str:
    amount = nbytes / unit_of(profile)[0]
    return f"{amount:.2f}" if amount >= 0.005 or not nbytes else "&lt;0.01"


def _share(profile: Profile, nbytes: int) -> str:
    return percent(nbytes / profile.limit.low)


NUMBERS = ("GiB", "MiB", "of the card", "count", "size")  # columns aligned to the right


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], foot: Sequence[str] = ()) -> str:
    """A table of cells that are HTML; the first of each row is its head."""
    kinds = [' class="number"' if name in NUMBERS else "" for name in head]

    def line(cells: Sequence[str]) -> str:
        first, *others = cells
        data = "".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(kinds[1:], others, strict=True))
        return f'<tr><th scope="row">{first}</th>{data}</tr>'

    names = "".join(f'<th scope="col"{kind}>{name}</th>' for kind, name in zip(kinds, head, strict=True))
    body = "\n".join(line(row) for row in rows)
    end = f"<tfoot>{line(foot)}</tfoot>" if foot else ""
    return f"<table><thead><tr>{names}</tr></thead><tbody>\n{body}\n</tbody>{end}</table>"
