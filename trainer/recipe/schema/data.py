"""A recipe's `data` section: which text or task, and how it becomes sequences."""

from __future__ import annotations

import codecs
from collections import Counter
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from galore.trainer.recipe.chattemplates import CHAT_TEMPLATES, SUFFIXES
from galore.trainer.recipe.schema.section import Bytes, Length, Pieces, Rows, Section, Threads, execution
from galore.trainer.recipe.schema.source import (
    FIELDS,
    OF_FILES,
    OF_THE_HUB,
    Columns,
    FileFormat,
    SourceSection,
    Split,
    TxtDocument,
)

UTF8 = "utf-8"
BINARY = ("parquet", "arrow")  # formats whose text is UTF-8 by themselves
NO_FILE_IS = ("idna", "punycode", "undefined", "unicode-escape", "raw-unicode-escape")  # text encodings to Python

TaskName = Literal["cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli"]
MOST_SOURCES = 64
BadRowPolicy = Literal["skip", "error"]


class DataSection(Section):
    """Which text, and how it becomes sequences."""

    source: Literal["packaged", "local", "hub", "glue"] = Field(
        "local",
        description="packaged: the corpus pip brings; local: files at `path`; hub: a data set of the Hugging Face hub; glue: sentences and labels of `task`",
    )
    task: TaskName | None = Field(None, description="glue: which task; `galore finetune-glue --task` sets it")
    max_train_samples: Rows | None = Field(
        None, description="glue: train on the first so many examples only; null takes all"
    )
    # A moved corpus is the same corpus: its content is fingerprinted.
    path: str | list[str] | None = execution(
        None,
        "local: file, folder or glob (or a list of them), txt/jsonl/csv/tsv/parquet/arrow, compressed (.gz, .bz2, .xz, .zst) or not, relative to the recipe; hub: data set name; glue: nyu-mll/glue, or a folder of the task, in any of its layouts",
    )
    validation_path: str | list[str] | None = execution(None, "local: files to hold out instead of a share of `path`")
    # The fingerprint of the data has the weights, too.
    sources: Annotated[list[SourceSection], Field(min_length=1, max_length=MOST_SOURCES)] | None = execution(
        None,
        "local: several sources instead of `path`, mixed by weight: a list of {path, name, weight, …}, each with keys of this section where it is read otherwise",
    )
    hub_config: str | None = Field(None, description="hub: configuration name, such as `en`")
    split: Split = Field("train", description="hub: split to train on")
    validation_split: Split | None = Field(
        "validation", description="hub: split to evaluate on; null holds out a share of `split`"
    )
    format: FileFormat = Field("auto", description="local: file format; auto goes by the file name")
    delimiter: str | None = Field(
        None,
        min_length=1,
        max_length=1,
        description="csv, tsv: the sign between two fields; null means the comma, in tsv the tab",
    )
    encoding: str = Field(
        UTF8,
        max_length=40,
        description="local: encoding of txt, jsonl and csv, by the name Python has for it: utf-8, latin-1, cp1252, utf-16, shift-jis, …; all files are read so",
    )
    text_field: Columns = Field(
        "text",
        description="The column that holds the text, or a list of columns, joined by an empty line where they are not empty",
    )
    prompt_field: Columns | None = Field(
        None,
        description="The column (or columns, joined by an empty line) that holds the instruction, or the messages before the answer; with response_field it takes the place of text_field",
    )
    input_field: str | None = Field(None, description="A column appended to the prompt where it is not empty")
    response_field: str | None = Field(
        None, description="The column that holds the answer to the prompt, or the messages of it"
    )
    messages_field: str | None = Field(
        None,
        description="The column that holds a conversation: a list of {role, content}, or of {from, value} as ShareGPT writes it",
    )
    tokens_field: str | None = Field(
        None,
        description="local: the column that holds tokens already, a list of ids of `tokenizer`; those that a column attention_mask has 0 for are left out",
    )
    labels_field: str | None = Field(
        None,
        description="The column beside tokens_field that holds the token where it is a target, else -100; null makes every token one",
    )
    extra_field: str | None = Field(
        None,
        description="packing: paper: the column beside tokens_field that holds numbers for extra_loss, such as attention maps, as a list or a list of lists; a row may go without",
    )
    chat_template: str | None = Field(
        None,
        max_length=1000,
        description=f"How conversations are written: {', '.join(CHAT_TEMPLATES)}, or a file FILE.jinja; null takes the tokenizer's own, or plain if it has none",
    )
    loss_on: Literal["response", "responses", "last", "all"] = Field(
        "responses",
        description="Instructions: train on what the assistant says and on the token that ends it, on its last turn only, or on prompts as well; response means responses",
    )
    txt_document: TxtDocument = Field(
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
        description="packed: documents joined by EOS and cut into full sequences, instructions put together whole; paper: one document per row, truncated, or padded to the longest of its micro-batch, which takes rows of like length",
    )
    isolate_documents: bool | None = Field(
        None,
        description="packed: the documents or examples of a sequence do not see each other, and each counts its own positions; null isolates instructions, not text",
    )
    shuffle: bool = Field(
        True, description="Permute the sequences of every epoch; the order is a pure function of (seed, step)"
    )
    streaming: bool | None = Field(
        None,
        description="hub: read while the run goes on (true), or downloaded, tokenized and shuffled whole before it (false); null streams where train.max_steps counts, not where epochs do",
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

    @field_validator("loss_on")
    @classmethod
    def _one_spelling(cls, choice: str) -> str:
        return "responses" if choice == "response" else choice

    @model_validator(mode="after")
    def _source_has_path(self) -> Self:
        if self.sources is not None:
            check_sources(self, self.sources)
        elif self.source in ("local", "hub", "glue") and not self.path:
            raise ValueError(f"source: {self.source} needs `path`{', or `sources`' * (self.source == 'local')}")
        if self.source == "packaged" and (self.path or self.validation_path):
            raise ValueError("path is set, but source: packaged reads no files: write source: local, or path: null")
        if codec_name(self.encoding) is None:
            raise ValueError(
                f"encoding: {self.encoding!r} is no encoding of text that Python knows, and none is guessed: write utf-8, "
                "latin-1, cp1252 (western Europe), cp1250, cp1251, utf-16, shift-jis, gb18030 or another"
            )
        if self.encoding != UTF8 and (self.source != "local" or self.format in BINARY):
            kind = f"source: {self.source}" if self.source != "local" else f"format: {self.format}"
            raise ValueError(f"encoding is for local txt, jsonl and csv, and {kind} is UTF-8: leave it out")
        check_instruction(self)
        return self

    @property
    def isolates(self) -> bool:
        """Whether rows hold several documents that do not see each other."""
        wanted = self.examples if self.isolate_documents is None else self.isolate_documents
        return wanted and self.packing == "packed" and self.task is None

    @property
    def parts(self) -> list[DataSection]:
        """This section for each of its sources; itself where it names none."""
        return [self._part(each) for each in self.sources or []] or [self]

    @property
    def labels(self) -> list[str]:
        """What each of the parts is called; "" where there is one."""
        return [each.label for each in self.sources or []] or [""]

    @property
    def of_the_hub(self) -> bool:
        """Whether any of it is a data set of the hub."""
        return any(part.source == "hub" for part in self.parts)

    def _part(self, source: SourceSection) -> DataSection:
        given: dict[str, Any] = {"sources": None, **source.settings}
        if given.keys() & set(FIELDS):
            given = {key: type(self).model_fields[key].default for key in FIELDS} | given
        given["encoding"] = codec_name(str(given.get("encoding", self.encoding))) or given["encoding"]
        return self.model_copy(update=given)

    @property
    def origin(self) -> str:
        """What is read, in a few words."""
        return f"hub: {self.path}, split {self.split}" if self.source == "hub" else self.source

    @property
    def one_column(self) -> str | None:
        """The column of text that is all of a row, where it is."""
        alone = isinstance(self.text_field, str) and not self.instruct and self.tokens_field is None
        return str(self.text_field) if alone else None

    @property
    def examples(self) -> bool:
        """Whether rows stay whole, each with targets of its own, instead of being text to continue."""
        given = self.tokens_field is not None and (self.labels_field is not None or self.packing == "paper")
        return self.instruct or given or any(part.examples for part in self.parts if part is not self)

    @property
    def instruct(self) -> bool:
        """Whether rows are prompts with responses, or conversations, instead of plain text."""
        own = self.messages_field is not None or self.prompt_field is not None
        return own or any(part.instruct for part in self.parts if part is not self)


def check_sources(data: DataSection, sources: list[SourceSection]) -> None:
    """Raise ValueError for the first contradiction."""
    if data.source not in ("local", "hub"):
        what = f"sources are local files or data sets of the hub, and source: {data.source} has none"
        raise ValueError(f"{what}: write source: local")
    if data.path is not None or data.validation_path is not None:
        key = "path" if data.path is not None else "validation_path"
        raise ValueError(f"{key} is set, but each of the sources names its own: leave it out")
    names = Counter(each.label for each in sources)
    if twice := [name for name, count in names.items() if count > 1]:
        of_the_hub = any(each.settings.get("source") == "hub" for each in sources if each.label == twice[0])
        fix = "give each a name, those of the hub by path, with hub as source" if of_the_hub else "give each a name"
        raise ValueError(f"{names[twice[0]]} of the sources are called {twice[0]}: {fix}")
    for source, part in zip(sources, data.parts, strict=True):
        try:
            check_source(source, part)
            if any(getattr(part, key) is not None for key in FIELDS[1:]):  # of text there is nothing to contradict
                check_instruction(part)
        except ValueError as error:
            raise ValueError(f"sources, {source.label}: {error}") from None


def check_source(source: SourceSection, part: DataSection) -> None:
    """Raise ValueError for the first key that does not go with what kind of source it is."""
    if source.source == "local" and source.path is None:
        raise ValueError("its source is local, which needs a path: name is what metrics call it")
    if part.source == "hub":
        if not isinstance(source.path, str | None):
            raise ValueError("path names several data sets of the hub: make a source of each")
        if wrong := [key for key in OF_FILES if getattr(source, key) is not None]:
            raise ValueError(f"{wrong[0]} is for local files, and this is a data set of the hub: leave it out")
        return
    if wrong := [key for key in OF_THE_HUB if getattr(source, key) is not None]:
        fix = "leave it out, or leave out path and give the name of the data set"
        raise ValueError(f"{wrong[0]} is for data sets of the hub, and path names files: {fix}")
    if codec_name(part.encoding) is None or (part.encoding != UTF8 and part.format in BINARY):
        raise ValueError(f"encoding {part.encoding} does not go with format {part.format}, or is none")


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
    if data.labels_field is not None and data.tokens_field is None:
        raise ValueError("labels_field says which tokens are targets: set tokens_field, the column of the tokens, too")
    if data.extra_field is not None and (data.tokens_field is None or data.packing != "paper"):
        raise ValueError(
            "extra_field goes with tokens_field and packing: paper, one row each: set both, or leave it out"
        )
    if data.tokens_field is not None and data.instruct:
        raise ValueError(
            "tokens_field holds tokens already: leave out messages_field, prompt_field and response_field, or it"
        )
    if data.tokens_field is not None and data.source != "local":
        raise ValueError(f"tokens_field is for local files, and source: {data.source} has none: leave it out")
    if data.tokens_field is not None and data.format == "txt":
        raise ValueError("format: txt has no columns: tokens come from jsonl, parquet or Arrow files")
    if data.chat_template is not None and not data.instruct:
        raise ValueError("chat_template writes conversations: set messages_field, or prompt_field and response_field")
    if data.chat_template not in (None, *CHAT_TEMPLATES) and not str(data.chat_template).endswith(SUFFIXES):
        raise ValueError(
            f"chat_template: {data.chat_template} is neither a file ({', '.join(SUFFIXES)}) nor one of {', '.join(CHAT_TEMPLATES)}"
        )
    if data.instruct and (data.source == "packaged" or data.format == "txt"):
        kind = "source: packaged" if data.source == "packaged" else "format: txt"
        raise ValueError(f"{kind} has no columns: prompts and responses come from jsonl, csv, parquet or the hub")
