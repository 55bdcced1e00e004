"""The examples of one split in a few flat buffers: random access, and no Python object per row."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from galore.trainer.common.errors import UserError
from galore.trainer.tasks.glue import Task

UNLABELLED = -1  # as the hub marks the rows of its test splits


@dataclass(frozen=True, slots=True)
class Example:
    text_a: str
    text_b: str | None  # None where the task has one sentence
    label: int | float | None  # class id, or score between 0 and 5; None: an unlabelled test row
    index: int  # GLUE's own number of the row, which submissions carry


class Texts:
    """Strings, one after another in one buffer of UTF-8."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._ends = array("q", [0])

    def append(self, text: str) -> None:
        """Raises UnicodeEncodeError: a lone surrogate, which JSON can spell and UTF-8 cannot."""
        self._bytes += text.encode()
        self._ends.append(len(self._bytes))

    def __getitem__(self, number: int) -> str:
        return self._bytes[self._ends[number] : self._ends[number + 1]].decode()

    def update(self, digest: hashlib._Hash) -> None:
        digest.update(self._bytes)
        digest.update(self._ends)


@dataclass(frozen=True)
class File:
    """Where the rows from number `first` on were read."""

    name: str
    first: int


class Rows(Sequence[Example]):
    """The examples of one split, in the order of their files."""

    def __init__(self, task: Task, split: str) -> None:
        self.task, self.split = task, split
        self.broken: list[str] = []  # where a line was passed over that GLUE's own file is known to have broken
        self._files: list[File] = []
        self._a, self._b = Texts(), Texts()
        self._labels = array("d" if task.is_regression else "b")
        self._indices, self._lines = array("q"), array("q")

    def open_file(self, name: str) -> None:
        """The rows that follow come from the file `name`."""
        self._files.append(File(name, len(self)))

    def append(self, example: Example, line: int) -> None:
        """`line`: the place in the file at hand, from 1."""
        self._a.append(example.text_a)
        if example.text_b is not None:
            self._b.append(example.text_b)
        missing = float("nan") if self.task.is_regression else UNLABELLED
        self._labels.append(missing if example.label is None else example.label)  # type: ignore[arg-type]  # int for "b"
        self._indices.append(example.index)
        self._lines.append(line)

    @property
    def files(self) -> tuple[str, ...]:
        """What was read, to be shown to the user."""
        return tuple(file.name for file in self._files)

    @cached_property
    def labels(self) -> npt.NDArray[Any]:
        """(rows,): class ids, int64, -1 where there is none; or scores, float64, NaN where there is none."""
        return np.array(self._labels, np.float64 if self.task.is_regression else np.int64)

    @cached_property
    def indices(self) -> npt.NDArray[np.int64]:
        """(rows,): GLUE's own numbers."""
        return np.array(self._indices, np.int64)

    @cached_property
    def fingerprint(self) -> str:
        """128 bits, in hexadecimal, that name task, split and content."""
        digest = hashlib.sha256(f"{self.task.name}/{self.split}".encode())
        self._a.update(digest)
        self._b.update(digest)
        digest.update(self._labels)
        digest.update(self._indices)
        return digest.hexdigest()[:32]

    def where(self, number: int) -> str:
        """`file:line` of a row."""
        file = max((file for file in self._files if file.first <= number), key=lambda file: file.first)
        return f"{file.name}:{self._lines[number]}"

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, number: int) -> Example: ...
    @overload
    def __getitem__(self, number: slice) -> list[Example]: ...
    def __getitem__(self, number: int | slice) -> Example | list[Example]:
        if isinstance(number, slice):
            return [self[position] for position in range(*number.indices(len(self)))]
        position = range(len(self))[number]  # IndexError, and negative numbers, as of a list
        label = self._labels[position]
        return Example(
            self._a[position],
            None if self.task.text_b is None else self._b[position],
            None if label == UNLABELLED or label != label else label,
            self._indices[position],
        )

    def __iter__(self) -> Iterator[Example]:
        return map(self.__getitem__, range(len(self)))


class Fault(Exception):  # noqa: N818 - it names a row
    """Becomes a UserError as soon as it is known where it happened."""

    def __init__(self, what: str, fix: str = "mend or remove the row", line: int | None = None) -> None:
        super().__init__(what)
        self.what, self.fix, self.line = what, fix, line

    def at(self, file: str, line: int | None) -> UserError:
        """`line`, from 1, counts where the fault itself does not know better."""
        number = self.line or line
        return UserError(self.what, where=f"{file}:{number}" if number else file, fix=self.fix)
