from __future__ import annotations

import codecs
import encodings.aliases
import gzip
import io
import json
import random
import tracemalloc
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from galore.trainer.common.errors import UserError
from galore.trainer.data.formats.bytestream import ByteStream
from galore.trainer.data.formats.encodings import is_misread, looks_like, transcoded
from galore.trainer.data.text.kinds import Format
from galore.trainer.data.text.locate import DataFile
from galore.trainer.data.text.quality import BadRows
from galore.trainer.data.text.sources import Corpus, training_corpus
from galore.trainer.recipe.schema.data import UTF8, DataSection

WESTERN = "Où est-il\u00a0? « Là-bas », dit-elle."
TEXTS = {
    "latin-1": WESTERN,
    "cp1252": WESTERN + " “Œuvres” – 5 €",
    "cp1251": "Все счастливые семьи",
    "utf-16": WESTERN + " 日本語 \u0a0a\u0d0a",  # letters that hold the bytes of line ends
    "utf-16-be": WESTERN,
    "utf-32": WESTERN,
    "utf-8-sig": WESTERN,
    "shift-jis": "吾輩は猫である",
    "gb18030": "学而时习之",
    "iso2022-jp": "吾輩は猫である",
    "utf-7": WESTERN,
}


def read(path: Path, format: Format = "txt", **section: Any) -> tuple[list[str], BadRows]:
    bad = BadRows("skip")
    corpus = Corpus((DataFile(path, format),), DataSection(path=str(path), **section))
    return [document.text for document in corpus.documents(bad)], bad


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("encoding", TEXTS)
def test_every_format_of_text_is_read_in_its_encoding(tmp_path: Path, encoding: str, zipped: bool) -> None:
    texts = [f"{TEXTS[encoding]} {number}" for number in range(40)]
    rows = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]

    def write(text: str) -> Path:
        data = text.encode(encoding)
        (tmp_path / "x").write_bytes(gzip.compress(data) if zipped else data)
        return tmp_path / "x"

    for document, joint in (("line", "\n"), ("paragraph", "\r\n\r\n")):
        found, bad = read(write(joint.join(texts)), encoding=encoding, txt_document=document)
        assert (found, bad.counts) == (texts, {})
    whole = "\r\n".join(texts)
    assert read(write(whole), encoding=encoding, txt_document="file")[0] == [whole]
    assert read(write("\n".join(rows)), "jsonl", encoding=encoding)[0] == texts
    assert read(write(f"[{','.join(rows)}]"), "jsonl", encoding=encoding)[0] == texts


def test_what_is_no_text_in_the_encoding_is_one_bad_row_and_says_where(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(b"caf\xe9\n\nodd \x81 byte\n\nlast\n")
    texts, bad = read(path, encoding="cp1252")
    assert (texts, bad.counts) == (["café", "last"], {"undecodable": 1})
    assert bad.summary["undecodable"]["first"] == (f"{path}:3: not text in data.encoding (cp1252, after 4 letters)")
    path.write_bytes("gut\n".encode("utf-16-le") + b"\x00\xd8" + "x\nlast\n\n".encode("utf-16-le") + b"\n")
    texts, bad = read(path, encoding="utf-16-le", txt_document="line")
    assert (texts, bad.counts) == (["gut", "last"], {"undecodable": 2, "empty": 1})
    path.write_bytes(b'[{"text": "\x81"}]')
    with pytest.raises(UserError, match=r"x\.txt: not text in cp1252\s+→ set data\.encoding"):
        read(path, "jsonl", encoding="cp1252")


def test_utf_16_without_a_mark_says_what_to_write(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes("hello".encode("utf-16-le"))
    with pytest.raises(UserError, match=r"x\.txt: not utf-16 .*\s+→ write data\.encoding: utf-16-le or utf-16-be"):
        read(path, encoding="utf-16")


def test_a_byte_order_mark_is_no_letter_of_a_document(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes(b"\xff\xfe" + "hello".encode("utf-16-le"))
    for encoding in ("utf-16", "utf-16-le"):
        assert read(tmp_path / "x.txt", encoding=encoding, txt_document="file")[0] == ["hello"]


def known() -> list[str]:
    """Every encoding that a recipe may name."""
    found = set()
    for name in {*encodings.aliases.aliases.values()}:
        try:
            found.add(DataSection(path="x", encoding=name).encoding)
        except ValidationError:
            continue
    return sorted(found - {UTF8})


@pytest.mark.parametrize("encoding", known())
def test_any_bytes_come_to_an_end_in_any_encoding(encoding: str) -> None:
    for seed in range(20):
        data = random.Random(seed).randbytes(997)
        stream = transcoded(ByteStream(io.BytesIO(data), io.BytesIO()), encoding)
        with suppress(UserError) if encoding in ("utf-16", "utf-32") else nullcontext():  # no byte-order mark
            while stream.plain.read(100):
                pass


def test_a_long_file_is_never_held_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "x.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(60):
            file.write(("é" * 500_000).encode("utf-16-le"))
    tracemalloc.start()
    assert read(path, encoding="utf-16-le", max_document_bytes=100_000)[1].counts == {"oversized": 1}
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000


@pytest.mark.parametrize(
    ("raw", "encoding"),
    [
        (WESTERN.encode("latin-1"), "cp1252"),
        (TEXTS["cp1252"].encode("cp1252"), "cp1252"),
        ("Größe: übermäßig".encode("cp1252"), "cp1252"),
        ("\u00e9".encode("latin-1"), "cp1252"),
        ("Hello".encode("utf-16"), "utf-16"),
        ("Wörter".encode("utf-16-be"), "utf-16"),
        (TEXTS["cp1251"].encode("cp1251"), None),
        (TEXTS["cp1251"].encode("koi8-r"), None),
        (TEXTS["shift-jis"].encode("shift-jis"), None),
        (TEXTS["gb18030"].encode("gb18030"), None),
        ("déjà vu à la carte".encode() + b"\xff", None),  # damaged UTF-8
        (random.Random(1).randbytes(500), None),
    ],
)
def test_what_bytes_look_like(raw: bytes, encoding: str | None) -> None:
    with pytest.raises(UnicodeDecodeError) as caught:
        raw.decode()
    guess = looks_like(raw, caught.value.start)
    assert (guess and guess.encoding) == encoding


def test_the_words_are_shown_as_the_guess_reads_them(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes("Il prit un café\nau lait.".encode("latin-1"))
    first = read(tmp_path / "x.txt")[1].summary["invalid_utf8"]["first"]
    assert first.endswith(":1: not valid UTF-8 (byte 0xe9 at 14; as cp1252 it reads: Il prit un café au lait.)")


def test_utf_8_that_is_read_as_something_else_is_counted(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("café\n\nplain\n\nthé")
    texts, bad = read(tmp_path / "x.txt", encoding="latin-1")
    assert texts == ["cafÃ©", "plain", "thÃ©"]
    assert dict(bad.noted) == {"UTF-8 read as another encoding": 2}
    assert not is_misread(WESTERN, "utf-16")


@pytest.mark.parametrize("name", ["auto", "base64", "idna", "rot13", "\0", "x" * 10_000, "", "os", "../x"])
def test_what_is_no_encoding_is_refused_in_a_few_words(name: str) -> None:
    with pytest.raises(ValidationError):
        DataSection(path="x", encoding=name)


@pytest.mark.parametrize("spelled", ["latin-1", "Latin1", "iso-8859-1", "L1"])
def test_an_encoding_has_one_name(spelled: str) -> None:
    assert DataSection(path="x", encoding=spelled).encoding == codecs.lookup("latin-1").name


def test_what_is_utf_8_by_itself_takes_no_encoding(tmp_path: Path) -> None:
    for other in ({"source": "packaged"}, {"source": "hub", "path": "x"}, {"path": "x", "format": "parquet"}):
        with pytest.raises(ValidationError, match="encoding is for local txt, jsonl and csv"):
            DataSection(encoding="latin-1", **other)  # type: ignore[arg-type]
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "x.parquet")
    with pytest.raises(UserError, match=r"x\.parquet is parquet, whose text is UTF-8"):
        training_corpus(DataSection(path="x.parquet", encoding="latin-1"), tmp_path)
