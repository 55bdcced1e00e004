"""What a person should know of the data before a run trains on them: in words, out of the summary of the data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from galore.trainer.common.format import counted
from galore.trainer.common.printable import listed
from galore.trainer.data.formats.encodings import MISREAD
from galore.trainer.data.text.quality import MEANING, shown
from galore.trainer.data.tokens.chat import NO_END, UNREAD

SHARE = 0.01  # of the rows or bytes; what is rarer is counted in the data line only
EMPTY = "empty"  # the one kind of bad row with which nothing is lost
NAMED = 3  # files in a notice
PARAGRAPHS, BYTES = 100, 1500  # a txt file of more paragraphs than this, and of shorter ones, may be a book

REMEDIES = {
    "invalid_utf8": "data.encoding=NAME reads files of another encoding, or convert them: `iconv -f LATIN1 -t UTF-8`",
    "undecodable": "set data.encoding to what they are in",
    "invalid_json": "a file is one object a line, or one array of objects: `jq -c .` puts each on a line",
    "missing_field": "check the columns that section data names",
    "oversized": "raise data.max_document_bytes",
}


def notices(summary: dict[str, Any]) -> list[str]:
    """All that there is to say: see `alarms` and `remarks`."""
    return [*alarms(summary), *remarks(summary)]


def alarms(summary: dict[str, Any]) -> list[str]:
    """What makes a corpus another than the one that is meant: rows left out or misread, from 1 % on."""
    good, notes = _good(summary), _left_out(summary, lambda kind: kind != EMPTY)
    if (misread := summary.get("noted", {}).get(MISREAD, 0)) > SHARE * good:
        notes.append(
            f"misread: {misread:,} of {counted(good, 'document')} are UTF-8, which data.encoding makes other letters of: "
            "leave it out, and convert the rest to UTF-8"
        )
    return notes


def remarks(summary: dict[str, Any]) -> list[str]:
    """Empty rows, parts and files that nobody reads, what was added to examples, what a document is."""
    good, notes = _good(summary), _left_out(summary, lambda kind: kind == EMPTY)
    for what, count in summary.get("noted", {}).items():
        if what == NO_END:
            notes.append(
                f"the chat template ends {count:,} of {counted(good, 'example')} without a token of its own: EOS was added"
            )
        elif what.startswith(UNREAD) and count > SHARE * good:
            key = shown(what.removeprefix(UNREAD))
            notes.append(f"the chat template leaves {key} out of {count:,} of {good:,} conversations")
    if names := summary.get("passed_over"):
        notes.append(f"not read: {listed(map(shown, names), NAMED)}; to train on one, name it in data.path")
    if splits := summary.get("splits"):
        others = ", ".join(name for name in splits if name != "train")
        notes.append(
            f"the folder's splits are all trained on, train and {others}: name the files of one in data.path, and of another in "
            "data.validation_path"
        )
    return [*notes, *_books(summary, good), *_small_vocabulary(summary)]


def _good(summary: dict[str, Any]) -> int:
    documents = summary.get("documents", {})
    return sum(documents.values()) if isinstance(documents, dict) else int(documents)


def _left_out(summary: dict[str, Any], is_asked: Callable[[str], bool]) -> list[str]:
    bad = summary.get("bad_rows", {})
    total = _good(summary) + sum(entry["rows"] for entry in bad.values())
    much = {kind: entry for kind, entry in bad.items() if is_asked(kind) and _is_much(entry, total, summary)}
    return [_of_bad_rows(kind, entry, total, summary) for kind, entry in much.items()]


def _is_much(entry: dict[str, Any], total: int, summary: dict[str, Any]) -> bool:
    return entry["rows"] > SHARE * total or _bytes(entry, summary) > SHARE


def _bytes(entry: dict[str, Any], summary: dict[str, Any]) -> float:
    """The share of the corpus in bytes; 0 where it is not known."""
    return float(entry.get("bytes", 0) / max(summary.get("bytes", 0), 1))


def _of_bad_rows(kind: Any, entry: dict[str, Any], total: int, summary: dict[str, Any]) -> str:
    rows, share = entry["rows"], _bytes(entry, summary)
    where = f" in {entry['files']:,} files" if entry.get("files", 1) > 1 else ""
    percent = f"{rows / total:.0%}{f', {share:.0%} of the bytes' if share else ''}"
    remedy = _other_encoding(entry, summary) or REMEDIES.get(kind, "")
    meaning = MEANING.get(kind, kind)
    what = f"left out: {rows:,} of {counted(total, 'row')} ({percent}){where}, {meaning}, first {shown(entry['first'])}"
    return f"{what}; {remedy}" if remedy else what


def encoding_remedy(summary: dict[str, Any]) -> str:
    """What to do about most of the bad rows, if they look like text of another encoding; else ""."""
    entries = list(summary["bad_rows"].values())
    return _other_encoding(entries[0], summary) if entries else ""


def _other_encoding(entry: dict[str, Any], summary: dict[str, Any]) -> str:
    """What the rows look like to be in, and the key to set: it is for all files, so others must be in it, too."""
    looks = entry.get("looks_like", {})
    if not looks or 2 * sum(looks.values()) < entry["rows"]:
        return ""
    encoding = max(looks, key=looks.__getitem__)
    if str(summary.get("source", "")).startswith("hub"):
        return f"they look like {encoding}: data sets of the hub are read as UTF-8; fetch its files, and name them with source: local"
    fix = f"data.encoding={encoding} reads them"
    if entry.get("files", 0) < summary.get("files", 0):
        fix = f"convert these files (`iconv -f {encoding.upper()} -t UTF-8`), or if no other holds UTF-8, {fix}"
    return f"they look like {encoding}: {fix}"


def _books(summary: dict[str, Any], good: int) -> list[str]:
    """A remark on txt files that are cut into paragraphs because nobody said otherwise."""
    files = summary.get("files_of_paragraphs", 0)
    if not files or good < PARAGRAPHS * files or summary["bytes"] > BYTES * good:
        return []
    what = f"{good:,} documents are the paragraphs of {counted(files, 'txt file')}: each ends with EOS, and is held out by itself"
    return [f"{what}; are they books? data.txt_document=file makes one document of each, and holds out whole ones"]


def _small_vocabulary(summary: dict[str, Any]) -> list[str]:
    size, asked = summary.get("vocab_size", 0), summary.get("asked_vocab_size", 0)
    return [f"the tokenizer has {size:,} pieces: the text has no more for data.tokenizer_vocab_size {asked:,}"] * (
        size < asked
    )
