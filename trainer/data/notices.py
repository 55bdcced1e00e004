"""What a person should know of the data before a run trains on them: in words, out of the summary of the data."""

from __future__ import annotations

from typing import Any

from galore.trainer.common.format import counted
from galore.trainer.data.text.quality import MEANING, shown
from galore.trainer.data.tokens.chat import NO_END, UNREAD

SHARE = 0.01  # of the rows; what is rarer is counted in the data line only
NAMED = 3  # files in a notice

REMEDIES = {
    "invalid_utf8": "convert such files, `iconv -f LATIN1 -t UTF-8` for one, or they are left out",
    "missing_field": "check the columns that section data names",
    "oversized": "raise data.max_document_bytes",
}


def notices(summary: dict[str, Any]) -> list[str]:
    """Bad rows and parts of rows that nobody reads, from 1 % on; files that are not read; additions to examples."""
    documents, bad = summary.get("documents", {}), summary.get("bad_rows", {})
    good = sum(documents.values()) if isinstance(documents, dict) else int(documents)
    total = good + sum(entry["rows"] for entry in bad.values())
    notes = [_of_bad_rows(kind, entry, total) for kind, entry in bad.items() if entry["rows"] > SHARE * total]
    for what, count in summary.get("noted", {}).items():
        if what == NO_END:
            notes.append(
                f"the chat template ends {count:,} of {counted(good, 'example')} without a token of its own: EOS was added"
            )
        elif count > SHARE * good:
            key = shown(what.removeprefix(UNREAD))
            notes.append(f"the chat template leaves {key} out of {count:,} of {good:,} conversations")
    if names := summary.get("passed_over"):
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        notes.append(f"not read: {', '.join(map(shown, names[:NAMED]))}{more}; to train on one, name it in data.path")
    return notes


def _of_bad_rows(kind: Any, entry: dict[str, Any], total: int) -> str:
    rows = entry["rows"]
    where = f" in {entry['files']:,} files" if entry.get("files", 1) > 1 else ""
    remedy = f"; {REMEDIES[kind]}" if kind in REMEDIES else ""
    meaning = MEANING.get(kind, kind)
    return f"left out: {rows:,} of {counted(total, 'row')} ({rows / total:.0%}){where}, {meaning}, first {shown(entry['first'])}{remedy}"
