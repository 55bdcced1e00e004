"""Text from elsewhere made fit for a terminal and a log: no control characters, no secrets, a limited length."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

LONGEST_LINE = 1_500  # letters; a path may have 4,096, but a message is read
LONGEST_NAME = 60
LONGEST_CELL = 200  # of a table; a path is read whole, as far as anybody made it to be read
MOST_LINES = 120
LONGEST_TEXT = LONGEST_LINE * MOST_LINES
SHORTEST_SECRET = 8  # letters of an environment variable; a shorter one would be found in every other word
MASK = "***"

_SECRET_VARIABLE = re.compile(r"(?:TOKEN|KEY|PASSWORD|PASSWD|SECRET)$", re.IGNORECASE)
_SECRET_NAME = re.compile(r"(?:token|key)$|passw(?:or)?d|passphrase|secret|credential", re.IGNORECASE)
_NAMED = re.compile(
    r"""((?:
        (?:hf|hub|auth|access|api|secret|session|wandb|bearer)[_-]?(?:tok\w{0,3}|key) | (?<![a-z_-])token
        | password | passwd | (?<![a-z])secret
    )["'`]?\s{0,3}[=:]\s{0,3}["'`]?)[^\s"'`,;]+""",
    re.IGNORECASE | re.VERBOSE,
)
_IN_URL = re.compile(r"(:/{1,2})(?:[^\s/?#]{0,300}|[^\s:/?#]{1,100}:\S{0,300})@")
_BY_SHAPE = re.compile(r"\b(?:hf_[A-Za-z0-9]{16,}|sk-[\w-]{16,}|gh[pousr]_\w{16,}|AKIA[0-9A-Z]{16})")


def presentable(text: str) -> str:
    """`text` as a message may show it."""
    lines = printable(masked(text[:LONGEST_TEXT])).split("\n")
    more = len(lines) - MOST_LINES + text.count("\n", LONGEST_TEXT)
    shown = [shortened(line, LONGEST_LINE) for line in lines[:MOST_LINES]]
    return "\n".join([*shown, *([f"  … and {more:,} lines more"] if more > 0 else [])])


def printable(text: str) -> str:
    """Text of others must not be able to steer the terminal: control characters are replaced."""
    return "".join(map(_printable, text))


def _printable(letter: str) -> str:
    if letter.isprintable() or letter == "\n":
        return letter
    return " " if letter.isspace() else "\N{REPLACEMENT CHARACTER}"


def shortened(text: str, longest: int) -> str:
    """`text` in at most `longest` letters: the gap lies before the end, which tells as much as the beginning."""
    if len(text) <= longest:
        return text
    tail = longest // 4
    return f"{text[: longest - tail - 1]}…{text[-tail:]}"


def listed(names: Iterable[object], most: int = 12) -> str:
    """`a, b, c`: the first `most` of them, each to a readable length, and how many more there are."""
    known = list(names)
    told = ", ".join(shortened(str(name), LONGEST_NAME) for name in known[:most])
    return f"{told} and {len(known) - most:,} more" if len(known) > most else told


def masked(text: str) -> str:
    """`text` without secrets: passwords in URLs, values of names such as `hf_token`, and those of the environment."""
    text = _IN_URL.sub(rf"\g<1>{MASK}@", text)
    text = _NAMED.sub(rf"\g<1>{MASK}", text)
    text = _BY_SHAPE.sub(MASK, text)
    for name, value in os.environ.items():
        if len(value) >= SHORTEST_SECRET and _SECRET_VARIABLE.search(name):
            text = text.replace(value, MASK)
    return text


def masked_command(words: Iterable[str]) -> str:
    """A command line without secrets: those that `masked` knows, and whatever stands at a name that says it is one,
    such as `db.password=VALUE`, or VALUE after an option that ends in token or key."""
    told, hidden = list[str](), False
    for word in words:
        if hidden and not word.startswith("--"):
            told, hidden = [*told, MASK], False
            continue
        name, equals, value = word.partition("=")
        hidden = word.startswith("-") and not equals and _SECRET_NAME.search(name) is not None
        secret = equals and value and " " not in name and _SECRET_NAME.search(name)
        told.append(f"{name}={MASK}" if secret else masked(word))
    return " ".join(told)


@contextmanager
def masked_logs() -> Iterator[None]:
    """Masks what any library logs meanwhile: the hub's, for one, tells whole URLs when it tries again."""
    before = logging.getLogRecordFactory()

    def make(*args: Any, **more: Any) -> logging.LogRecord:
        record = before(*args, **more)
        with suppress(Exception):  # logging itself tells of a message that does not fit its arguments
            record.msg, record.args = masked(record.getMessage()), None
        return record

    logging.setLogRecordFactory(make)
    try:
        yield
    finally:
        logging.setLogRecordFactory(before)
