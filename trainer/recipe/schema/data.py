"""A recipe's `data` section: which text or task, and how it becomes sequences."""

from __future__ import annotations

import codecs
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from galore.trainer.recipe.schema.section import Bytes, Length, Pieces, Rows, Section, Threads, execution

UTF8 = "utf-8"
NO_FILE_IS = ("idna", "punycode", "undefined", "unicode-escape", "raw-unicode-escape")  # text encodings to Python

TaskName = Literal["cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli"]
BadRowPolicy = Literal["skip", "error"]


class DataSection(Section):
    """Which text, and how it becomes sequences."""

    source: Literal["packaged", "local", "hub", "glue"] = Field(
        "local",
        description="packaged: the corpus pip brings; local: files at `path`; hub: a data set streamed from the Hugging Face hub; glue: sentences and labels of `task`",
    )
    task: TaskName | None = Field(None, description="glue: which task; `galore finetune-glue --task` sets it")
    max_train_samples: Rows | None = Field(
        None, description="glue: train on the first so many examples only; null takes all"
    )
    # A moved corpus is the same corpus: its content is fingerprinted.
    path: str | list[str] | None = execution(
        None,
        "local: file, folder or glob (or a list of them), txt/jsonl/parquet, gzipped or not, relative to the recipe; hub: data set name; glue: nyu-mll/glue, or a folder of the task, in any of its layouts",
    )
    validation_path: str | list[str] | None = execution(None, "local: files to hold out instead of a share of `path`")
    hub_config: str | None = Field(None, description="hub: configuration name, such as `en`")
    split: str = Field("train", description="hub: split to train on")
    validation_split: str | None = Field(
        "validation", description="hub: split to evaluate on; null holds out a share of `split`"
    )
    format: Literal["auto", "txt", "jsonl", "parquet"] = Field(
        "auto", description="local: file format; auto goes by the file name"
    )
    encoding: str = Field(
        UTF8,
        max_length=40,
        description="local: encoding of txt and jsonl, by the name Python has for it: utf-8, latin-1, cp1252, utf-16, shift-jis, …; all files are read so",
    )
    text_field: str = Field("text", description="jsonl, parquet, hub: the column that holds the text")
    prompt_field: str | None = Field(
        None,
        description="jsonl, parquet, hub: the column that holds the instruction; with response_field it takes the place of text_field",
    )
    input_field: str | None = Field(None, description="A column appended to the prompt where it is not empty")
    response_field: str | None = Field(None, description="The column that holds the answer to the prompt")
    messages_field: str | None = Field(
        None,
        description="The column that holds a conversation: a list of {role, content}, or of {from, value} as ShareGPT writes it",
    )
    loss_on: Literal["responses", "all"] = Field(
        "responses",
        description="Instructions: train on what the assistant says and on the token that ends it, or on prompts as well",
    )
    txt_document: Literal["file", "paragraph", "line"] = Field(
        "paragraph", description="txt: what one document is; paragraphs are separated by blank lines"
    )
    validation_fraction: float = Field(
        0.01, ge=0, lt=1, description="Share of documents held out, chosen by a hash of their content"
    )
    tokenizer: str | None = Field(
        None,
        description="Local folder, tokenizer.json or hub name; null takes the model's, or trains a byte-level BPE on the corpus",
    )
    tokenizer_vocab_size: Pieces = Field(
        4096, description="Size of the byte-level BPE trained when `tokenizer` is null"
    )
    max_length: Length = Field(
        256, description="Tokens per sequence; glue: at most, the examples of a batch are padded to its longest"
    )
    packing: Literal["packed", "paper"] = Field(
        "packed",
        description="packed: documents joined by EOS and cut into full sequences, instructions put together whole; paper: one document per row, truncated or padded",
    )
    isolate_documents: bool | None = Field(
        None,
        description="packed: the documents or examples of a sequence do not see each other, and each counts its own positions; null isolates instructions, not text",
    )
    shuffle: bool = Field(
        True, description="Permute the sequences of every epoch; the order is a pure function of (seed, step)"
    )
    shuffle_buffer_size: Rows = Field(10_000, description="hub: documents in the shuffle buffer of the stream")
    on_bad_rows: BadRowPolicy = Field(
        "skip", description="Invalid UTF-8, missing field, empty, NUL bytes, oversized: count and skip, or refuse"
    )
    max_document_bytes: Bytes = Field(50_000_000, description="A row longer than this, in bytes, is a bad row")
    num_proc: Threads | None = execution(None, "Processes or threads that tokenize; null means all cores")
    cache_dir: str | None = execution(None, "Where tokenized data is kept; null means $GALORE_CACHE or ~/.cache/galore")

    @field_validator("encoding")
    @classmethod
    def _one_name(cls, name: str) -> str:
        """The codec's own name where there is a codec, so that every spelling is the same recipe."""
        return codec_name(name) or name

    @model_validator(mode="after")
    def _source_has_path(self) -> Self:
        if self.source in ("local", "hub", "glue") and not self.path:
            raise ValueError(f"source: {self.source} needs `path`")
        if self.source == "packaged" and (self.path or self.validation_path):
            raise ValueError("path is set, but source: packaged reads no files: write source: local, or path: null")
        if codec_name(self.encoding) is None:
            raise ValueError(
                f"encoding: {self.encoding!r} is no encoding of text that Python knows, and none is guessed: write utf-8, "
                "latin-1, cp1252 (western Europe), cp1250, cp1251, utf-16, shift-jis, gb18030 or another"
            )
        if self.encoding != UTF8 and (self.source != "local" or self.format == "parquet"):
            kind = f"source: {self.source}" if self.source != "local" else "format: parquet"
            raise ValueError(f"encoding is for local txt and jsonl, and {kind} is UTF-8: leave it out")
        check_instruction(self)
        return self

    @property
    def isolates(self) -> bool:
        """Whether rows hold several documents that do not see each other."""
        wanted = self.instruct if self.isolate_documents is None else self.isolate_documents
        return wanted and self.packing == "packed" and self.task is None

    @property
    def instruct(self) -> bool:
        """Whether rows are prompts with responses, or conversations, instead of plain text."""
        return self.messages_field is not None or self.prompt_field is not None


def codec_name(encoding: str) -> str | None:
    """Python's own name of an encoding that files of text may have; None where there is no such codec."""
    try:
        codec = codecs.lookup(encoding)
    except (LookupError, ValueError):
        return None
    return codec.name if codec._is_text_encoding and codec.name not in NO_FILE_IS else None


def check_instruction(data: DataSection) -> None:
    """Raise ValueError for the first contradiction."""
    if (data.prompt_field is None) != (data.response_field is None):
        absent = "response_field" if data.response_field is None else "prompt_field"
        raise ValueError(f"prompt_field and response_field come together: set {absent} too")
    if data.messages_field is not None and data.prompt_field is not None:
        raise ValueError("messages_field holds whole conversations: leave out prompt_field and response_field, or it")
    if data.input_field is not None and data.prompt_field is None:
        raise ValueError("input_field is appended to the prompt: set prompt_field and response_field too")
    if data.instruct and (data.source == "packaged" or data.format == "txt"):
        kind = "source: packaged" if data.source == "packaged" else "format: txt"
        raise ValueError(f"{kind} has no columns: prompts and responses come from jsonl, parquet or the hub")
