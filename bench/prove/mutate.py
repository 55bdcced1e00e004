"""Random changes of recipes, overrides and data files, and values that parsers stumble over."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence

VALUES = (
    "null", "~", "true", "yes", "-1", "0", "1e400", "-.inf", ".nan", "1" * 5000, "0x" + "f" * 300, "1_0", "''", '"\\u0000"',
    "\U0001f600", "\u2028", "\ufeff", "[]", "{}", "[[[[]]]]", "{a: {b: c}}", "&a 1", "*a", "!!binary aGk=", "!!set {a}",
    "!!python/object/apply:os.system ['false']", "!!timestamp 2001-01-01", "<<: {a: 1}", "? a", "| \n x", "> \n y", "---",
    "...", "%YAML 1.1", "\t", "\r", "\x85", "\x07", "\x7f", "@", "`", "a: b: c", "- - -", "1e308", "9" * 19, str(2**63),
    str(2**64), "-0.0", "1e-320", "0.1.2", "12:30", "../../etc/passwd", "/proc/self/mem", "~root", "~nosuchuser/x",
    "a" * 5000, "$HOME", "[1, 2", "{a: ", "'", '"', "#", ": ", "!", "!!", "!<x>", "%", "|2-", "010", "0o9", "0b1", "1,5",
    "/dev/zero", "2024", "256", "galore", "full", "[mlp]", "0.5",
)  # fmt: skip
OVERRIDES = (
    "=", "", ".", "..=1", "a=b", "model=1", "model.=1", ".x=1", "optim.rank.x=1", "optim.rank==3", "extends=demo",
    "optim.rank_pattern={mlp: 3}", "optim.rank_pattern={a: {b: c}}", "\n", "x=\n\n",
)  # fmt: skip
ROWS = (
    b"null", b"[]", b"1", b'"x"', b"{}", b'{"text": null}', b'{"text": 1}', b'{"text": ["a"]}', b'{"text": "\\ud800"}',
    b'{"text": "\\u0000"}', b"[" * 5000, b'{"text":' * 2000, b"1" * 6000, b'{"text": "a"', b"NaN", b"\xff\xfe\x00",
    b"\xef\xbb\xbf{}", b'{"messages": []}', b'{"messages": [null]}', b'{"messages": {"a": 1}}', b'{"messages": "a"}',
    b'{"messages": [{"role": "assistant", "content": "x"}]}', b'{"messages": [{"from": "gpt", "value": 3}]}',
    b'{"instruction": {}, "output": []}', b'{"text": "a", "text": "b"}', b'{"text": 1e999}', b"\x00" * 300, b"\r", b"\x0b",
)  # fmt: skip


def recipe(text: str, names: Sequence[str], draw: random.Random) -> str:
    """`text` with one change or a few."""
    for _ in range(draw.choice((1, 1, 1, 2, 3, 8))):
        text = draw.choice((_letters, _lines, _value, _value, _setting))(text, names, draw)
    return text


def overrides(names: Sequence[str], draw: random.Random) -> list[str]:
    """One to four, most of them of settings that there are."""
    return [_override(names, draw) for _ in range(draw.choice((1, 1, 2, 4)))]


def data(content: bytes, lines: bool, draw: random.Random) -> bytes:
    """A file with changes anywhere; of one of `lines` also with rows that are none."""
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 5, 20))):
        at, kind = draw.randrange(len(changed) + 1), draw.randrange(6)
        if kind == 0:
            changed[at : at + 1] = draw.randbytes(1)
        elif kind == 1:
            del changed[at : at + draw.choice((1, 10, 1000, 10**6))]
        elif kind == 2:
            changed[at:at] = draw.randbytes(draw.choice((1, 8, 100)))
        elif kind == 3 and lines:
            at = changed.find(b"\n", at) + 1
            changed[at:at] = draw.choice(ROWS) + b"\n"
        elif kind == 4:
            begin = draw.randrange(len(changed) + 1)
            changed[at:at] = changed[begin : begin + draw.randint(1, 500)]
        else:  # where a parquet file says what is in it
            at = max(0, len(changed) - draw.randint(1, 1200))
            changed[at : at + 1] = draw.randbytes(1)
    return bytes(changed)


def rows() -> list[dict[str, object]]:
    """Rows of every kind of text that a recipe can name."""
    words = ("the", "a", "of", "and", "to", "in", "he", "that", "it", "was", "his")
    made: list[dict[str, object]] = []
    for number in range(200):
        text = " ".join(words[(number * step) % len(words)] for step in range(1, 40))
        ask, answer = {"role": "user", "content": text[:20]}, {"role": "assistant", "content": text[:30]}
        made.append({"text": text, "instruction": text[:20], "output": text[:30], "messages": [ask, answer]})
    return made


def jsonl() -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows()).encode()


def _letters(text: str, names: Sequence[str], draw: random.Random) -> str:
    at = draw.randrange(len(text) + 1)
    letter = chr(draw.choice((draw.randrange(32, 127), draw.randrange(0x300), draw.randrange(0xE000, 0x10FFFF))))
    new = draw.choice((letter, "", draw.choice(VALUES)))
    return text[:at] + new + text[at + draw.randint(0, 30) :]


def _lines(text: str, names: Sequence[str], draw: random.Random) -> str:
    lines = text.split("\n")
    one, other = draw.randrange(len(lines)), draw.randrange(len(lines))
    kind = draw.randrange(4)
    if kind == 0:
        lines.insert(one, lines[other])
    elif kind == 1:
        del lines[one]
    elif kind == 2:
        lines[one], lines[other] = lines[other], lines[one]
    else:
        lines[one] = " " * draw.randrange(6) + lines[one].lstrip()
    return "\n".join(lines)


def _value(text: str, names: Sequence[str], draw: random.Random) -> str:
    lines = text.split("\n")
    places = [number for number, line in enumerate(lines) if ":" in line and not line.lstrip().startswith("#")]
    if places:
        place = draw.choice(places)
        lines[place] = f"{lines[place].partition(':')[0]}: {draw.choice(VALUES)}"
    return "\n".join(lines)


def _setting(text: str, names: Sequence[str], draw: random.Random) -> str:
    section, _, key = draw.choice(names).partition(".")
    return f"{text}\n{section}:\n  {key}: {draw.choice(VALUES)}\n"


def _override(names: Sequence[str], draw: random.Random) -> str:
    if draw.random() < 0.05:
        return draw.choice(OVERRIDES)
    made = f"{draw.choice(names)}={draw.choice(VALUES)}"
    if draw.random() < 0.3:
        at = draw.randrange(len(made))
        made = made[:at] + chr(draw.randrange(32, 0x250)) + made[at + draw.randint(0, 1) :]
    return made
