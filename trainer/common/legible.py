"""Letters that the encoding of an output lacks, in ASCII: a table of figures is worth more than its dashes."""

from __future__ import annotations

import codecs

LEGIBLE = "galore-legible"  # the error handler's name, as `open` and `encode` take it
ASCII = {
    "–": "-", "—": "-", "−": "-", "‐": "-", "·": "*", "•": "*", "×": "x", "°": "deg", "≤": "<=", "≥": ">=", "→": "->", "←": "<-",
    "…": "...", "±": "+/-", "√": "sqrt", "‘": "'", "’": "'", "“": '"', "”": '"', "«": "<<", "»": ">>", "²": "^2", "³": "^3",
    "α": "alpha", "β": "beta", "γ": "gamma", "ε": "eps", "η": "eta", "λ": "lambda", "μ": "u", "µ": "u", "σ": "sigma", "Σ": "sum",
    "▁": "_", "▂": "_", "▃": ".", "▄": ".", "▅": "-", "▆": "-", "▇": "=", "█": "#", "ᵀ": "^T", "⚠": "!",
}  # fmt: skip


def _in_ascii(error: UnicodeError) -> tuple[str | bytes, int]:
    """Each letter as ASCII has it; `?` for one that has no such form, and a byte of a name that is no text as it is."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    if all("\udc80" <= letter <= "\udcff" for letter in letters):
        return bytes(ord(letter) - 0xDC00 for letter in letters), error.end
    return "".join(ASCII.get(letter, "?") for letter in letters), error.end


def writable(text: str) -> str:
    """`text` with escapes for bytes of a name that are no UTF-8, which no file of text takes: names stay distinct."""
    return text.encode(errors="backslashreplace").decode()


codecs.register_error(LEGIBLE, _in_ascii)
