"""Bad rows: what makes a row bad, and whether it is counted or refused."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from galore.trainer.common.errors import UserError
from galore.trainer.common.printable import listed, shortened
from galore.trainer.data.formats.encodings import SEEN_BYTES, is_wide, looks_like
from galore.trainer.recipe.schema.data import UTF8, BadRowPolicy

Kind = Literal[
    "invalid_utf8",
    "undecodable",
    "invalid_json",
    "invalid_csv",
    "missing_field",
    "wrong_type",
    "empty",
    "nul_bytes",
    "oversized",
    "no_text",
    "wrong_token",
    "wrong_role",
    "no_response",
    "refused",
]

LONGEST_DETAIL = 300  # letters

MEANING: dict[Kind, str] = {
    "invalid_utf8": "not valid UTF-8",
    "undecodable": "not text in data.encoding",
    "invalid_json": "not valid JSON",
    "invalid_csv": "not a row of the table",
    "missing_field": "a field is missing",
    "wrong_type": "a field is not of the type it should be",
    "empty": "no text in it",
    "nul_bytes": "NUL bytes in the text",
    "oversized": "longer than data.max_document_bytes",
    "no_text": "an image, a sound or another part that is no text",
    "wrong_token": "a token that the tokenizer does not have",
    "wrong_role": "a role that cannot be there",
    "no_response": "no response to train on",
    "refused": "the chat template refuses it",
}

SHOWN = 300  # characters of the data in a message


class BadRow(Exception):  # noqa: N818 - it names a row, and travels as a value as often as it is raised
    """One row that cannot be trained on. `encoding`: what it looks like to be in, if it is text at all."""

    def __init__(self, kind: Kind, detail: str = "", encoding: str | None = None) -> None:
        detail = shortened(detail, LONGEST_DETAIL)  # it is kept, too: with the data, and in run.json
        super().__init__(kind, detail)
        self.kind: Kind = kind
        self.detail = detail
        self.encoding = encoding

    def bare(self) -> BadRow:
        """Itself, without the frames it came through, which hold the row and all that was made of it."""
        self.__traceback__ = self.__context__ = self.__cause__ = None
        return self

    def __str__(self) -> str:
        return f"{MEANING[self.kind]} ({shown(self.detail)})" if self.detail else MEANING[self.kind]


def attempt(parse: Callable[[], str]) -> str | BadRow:
    """What `parse` returns, or the BadRow it raises."""
    try:
        return parse()
    except BadRow as bad:
        return bad.bare()


def shown(text: str) -> str:
    """Words of the data as a terminal may have them: on one line, not too long, without control characters."""
    cut = text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in cut)


def decode(raw: bytes, encoding: str = UTF8) -> str:
    """UTF-8 bytes as text. `encoding`: what they are made from, see `encodings.transcoded`. Raises BadRow."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        if encoding != UTF8:
            raise BadRow("undecodable", f"{encoding}, after {len(raw[: error.start].decode()):,} letters") from None
        raise _not_utf8(raw, error.start) from None


def _not_utf8(raw: bytes, start: int) -> BadRow:
    guess, what = looks_like(raw, start), f"byte 0x{raw[start]:02x} at {start}"
    words = f"; as {guess.encoding} it reads: {guess.words}" if guess and guess.words else ""
    return BadRow("invalid_utf8", what + words, guess.encoding if guess else None)


def check(text: str, max_bytes: int) -> str:
    """The text itself, if it can be trained on. Raises BadRow."""
    if not text or text.isspace():
        raise BadRow("empty")
    if "\x00" in text:
        raise BadRow("nul_bytes", encoding="utf-16" if is_wide(text[:SEEN_BYTES].encode("utf-8", "replace")) else None)
    if len(text) > max_bytes or (not text.isascii() and utf8_length(text) > max_bytes):
        raise BadRow("oversized", f"limit {max_bytes:,} bytes")
    return text


def utf8_length(text: str) -> int:
    """Bytes of the text in UTF-8. Raises BadRow for lone surrogates, which JSON can spell and UTF-8 cannot."""
    try:
        return len(text.encode("utf-8"))
    except UnicodeEncodeError:
        raise BadRow("invalid_utf8", "lone surrogate") from None


@dataclass
class BadRows:
    """Counts bad rows by kind, or refuses the first one; and what was noted of good ones."""

    policy: BadRowPolicy
    counts: Counter[Kind] = field(default_factory=Counter)
    noted: Counter[str] = field(default_factory=Counter)  # by the words of `chat.Example.notes`
    first: dict[Kind, str] = field(default_factory=dict)  # where each kind was first met
    files: dict[Kind, set[str]] = field(default_factory=dict)  # those of each kind, where rows come from files
    sizes: Counter[Kind] = field(default_factory=Counter)  # bytes, as stored on disk, where rows come from files
    looks: dict[Kind, Counter[str]] = field(default_factory=dict)  # encodings that rows of each kind look like
    _lock: threading.Lock = field(default_factory=threading.Lock)  # rows are read and tokenized in two threads

    def add(self, bad: BadRow, where: str, file: str | None = None, size: int = 0) -> None:
        """Count one bad row, which takes `size` bytes of its file.

        Raises:
            UserError: the policy is to refuse.
        """
        if self.policy == "error":
            fix = "mend the row, or set data.on_bad_rows: skip to count and skip such rows"
            raise UserError(f"bad row: {bad}", where=where, fix=fix)
        with self._lock:
            self.counts[bad.kind] += 1
            self.first.setdefault(bad.kind, f"{where}: {bad}")
            if bad.encoding is not None:
                self.looks.setdefault(bad.kind, Counter())[bad.encoding] += 1
            if file is not None:
                self.files.setdefault(bad.kind, set()).add(file)
                self.sizes[bad.kind] += size

    @property
    def summary(self) -> dict[str, Any]:
        """JSON: how many of each kind, where the first of them is, in how many files and bytes where they come from
        files, and what encoding they look like."""
        return {
            kind: {"rows": rows, "first": self.first[kind]} | self._more(kind)
            for kind, rows in self.counts.most_common()
        }

    def _more(self, kind: Kind) -> dict[str, Any]:
        places = {"files": len(self.files[kind]), "bytes": self.sizes[kind]} if kind in self.files else {}
        return places | ({"looks_like": dict(self.looks[kind])} if kind in self.looks else {})


def value_of(row: Any, field: str) -> Any:
    """What the column holds, never None. Raises BadRow."""
    if not isinstance(row, dict):
        raise BadRow("wrong_type", f"the row is {type(row).__name__}, not an object")
    value = row.get(field)
    if value is None:
        what = "is null" if field in row else f"is not among {listed(row) or 'no fields'}"
        raise BadRow("missing_field", f"`{field}` {what}")
    return value


def named_twice(names: Sequence[str], fields: Sequence[str]) -> BadRow | None:
    """What is wrong with every row of a table in which one of `fields` is the name of several columns."""
    twice = [field for field in fields if names.count(field) > 1]
    return BadRow("wrong_type", f"`{twice[0]}` is the name of {names.count(twice[0])} columns") if twice else None


def text_of_object(row: Any, field: str | Sequence[str]) -> str:
    """The text that the column holds, or those of several, joined by an empty line where they are not empty. Raises
    BadRow."""
    if isinstance(field, str):
        text = value_of(row, field)
        if not isinstance(text, str):
            raise BadRow("wrong_type", f"`{field}` is {type(text).__name__}")
        return text
    there = [name for name in field if not isinstance(row, dict) or name not in row or row[name] is not None]
    texts = [text_of_object(row, name) for name in there]
    return "\n\n".join(text for text in texts if text.strip())
