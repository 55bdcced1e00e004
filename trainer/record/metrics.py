"""metrics.jsonl: one JSON line per step, evaluation and event, in a file that survives kills and full disks."""

from __future__ import annotations

import json
import math
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, Self, cast

from galore.trainer.common.appended import Appended, free_name
from galore.trainer.common.durable import replace_file
from galore.trainer.common.format import counted
from galore.trainer.common.reading import open_regular
from galore.trainer.record.heldout import HeldOut
from galore.trainer.record.row import EvalRow, Row, TrainRow

LONGEST_ROW_BYTES = 2**20  # with a sample in it; the parts of a longer line are no JSON, and passed over
MOST_DIGITS = 300  # of a float
NOT_STRICT = (b"NaN", b"Infinity")  # Python's words for numbers that JSON has not


End = Literal["finished", "interrupted", "failed"]  # how a run ended; what was interrupted goes on later


class Console(Protocol):
    """What a person sees of a run while it goes on."""

    def start(self, header: dict[str, Any], total_steps: int) -> None: ...
    def step(self, row: TrainRow) -> None: ...
    def evaluation(self, row: EvalRow) -> None: ...
    def message(self, text: str) -> None: ...
    def notice(self, text: str) -> None: ...  # may be called in a signal handler: touches no buffered stream
    def close(self) -> None: ...


class Silent:
    """The console of a process that nobody watches."""

    def start(self, header: dict[str, Any], total_steps: int) -> None: ...
    def step(self, row: TrainRow) -> None: ...
    def evaluation(self, row: EvalRow) -> None: ...
    def message(self, text: str) -> None: ...
    def notice(self, text: str) -> None: ...
    def close(self) -> None: ...


SILENT = Silent()


class Sink(Protocol):
    """Another place the rows go to. It never raises."""

    def log(self, row: Row) -> None: ...
    def close(self, end: End = "finished") -> None: ...


class Metrics:
    """Appends rows to a file. A full disk delays rows, it does not lose them or stop the run; a file that somebody
    deleted or replaced is written anew.

    `evaluated`: the last evaluation that the file held when it was opened; empty if none. `held_out`: all losses of
    evaluations, those written since too. `absent`: the steps before, of which it had no row.
    """

    def __init__(
        self,
        file: Appended | None,
        warn: Callable[[str], None],
        sink: Sink | None,
        evaluated: EvalRow | None = None,
        held_out: HeldOut | None = None,
        absent: int = 0,
    ) -> None:
        self.absent = absent
        self._file, self._warn, self._sink, self.evaluated = file, warn, sink, evaluated or {}
        self.held_out = held_out or HeldOut()
        self._pending = bytearray()
        self._stuck = False

    @classmethod
    def open(
        cls, path: Path, resume_step: int | None, *, warn: Callable[[str], None] = print, sink: Sink | None = None
    ) -> Self:
        """Open `path` for a run that starts (`resume_step` is None: an empty file) or goes on after `resume_step`.

        Rows of later steps will be computed again, so they are dropped, as is a line that a kill cut short. The file
        is replaced atomically. The steps of a run that begins again at step 0 may be all that is left of it: the file
        is then kept as metrics.jsonl.1, or the next number that is free.

        Args:
            warn: told once when the disk is full, and once when the delayed rows are written; and what is kept.

        Raises:
            OSError: the file cannot be read or written; no row is lost.
        """
        rows = path
        if resume_step == 0 and any(row.get("kind") == "train" for row in read_rows(path)):
            rows = _keep(path)
            warn(f"the rows of the steps before are kept in {rows.name}")
        known = _Known(resume_step or 0)
        replace_file(path, b"" if resume_step is None else known.lines(rows))
        return cls(Appended(path), warn, sink, known.evaluated, known.held_out, known.absent)

    @classmethod
    def unwritten(cls, evaluations: Sequence[EvalRow]) -> Self:
        """Metrics of a process that writes none, after the `evaluations` that the one which does has written."""
        return cls(None, lambda _: None, None, evaluations[-1] if evaluations else None, HeldOut.of(evaluations))

    def write(self, row: Row) -> None:
        """Append one row. Non-finite floats become null, with `<name>_is` saying which."""
        self._pending += _line(row)
        self.held_out.add(row)
        self._flush()
        if self._sink is not None:
            self._sink.log(row)

    def sync(self) -> None:
        """Make what was written durable: call it before a checkpoint, whose rows must not be younger than it."""
        self._flush()
        try:
            if self._file is not None:
                self._file.sync()
        except OSError as error:
            self._complain(error)

    def close(self, end: End = "finished") -> None:
        """Write what is left, and say so if that is impossible; the sink is told how the run ended."""
        self.sync()
        if self._is_lost():
            self._warn("metrics.jsonl: all rows are lost, as it was deleted or replaced and cannot be written anew")
        elif self._pending:
            self._warn(f"metrics.jsonl: {counted(self._pending.count(10), 'row')} lost to a full disk")
        if self._file is not None:
            self._file.close()
        if self._sink is not None:
            self._sink.close(end)

    def _is_lost(self) -> bool:
        try:
            return self._file is not None and not self._file.is_there
        except OSError:
            return False

    def _flush(self) -> None:
        """Hand the pending bytes to the file. A write may take a part of them: the rest stays for the next."""
        if self._file is None:
            self._pending.clear()
            return
        try:
            happened = "" if self._file.is_there else self._file.bring_back()
            while self._pending:
                del self._pending[: self._file.append(self._pending)]
        except OSError as error:
            self._complain(error)
            return
        if happened:
            self._warn(f"metrics.jsonl {happened}: written anew, no row of this run is missing")
        if self._stuck:
            self._stuck = False
            self._warn("metrics.jsonl: written again, no row is missing")

    def _complain(self, error: OSError) -> None:
        if not self._stuck:
            self._stuck = True
            self._warn(f"metrics.jsonl cannot be written ({error.strerror}); rows are kept in memory and tried again")


class _Known:
    """What is remembered of the rows of a file up to `last_step`, of which there may be millions."""

    def __init__(self, last_step: int) -> None:
        self.evaluated: EvalRow | None = None
        self.held_out = HeldOut()
        self._last, self._done = last_step, bytearray(last_step)

    @property
    def absent(self) -> int:
        """Steps that no row is of."""
        return self._done.count(0)

    def lines(self, path: Path) -> Iterator[bytes]:
        """The lines of the rows of `path` up to the last step, as `write` has them."""
        for line, row in _read(path):
            if row["step"] > self._last:
                continue
            self.held_out.add(row)
            if row.get("kind") == "eval":
                self.evaluated = cast("EvalRow", row)
            elif row.get("kind") == "train" and row["step"] > 0:
                self._done[row["step"] - 1] = 1
            is_strict = not any(word in line for word in NOT_STRICT)
            yield line.rstrip(b"\n") + b"\n" if is_strict else _line(row)


def _keep(path: Path) -> Path:
    kept = path.with_name(free_name(path.name, {each.name for each in path.parent.iterdir()}))
    path.rename(kept)
    return kept


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a metrics file in order. Lines cut short by a kill or a power cut, or damaged, are passed over."""
    return (row for _, row in _read(path))


def _read(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    if not path.exists():
        return
    with open_regular(path) as file:
        while line := file.readline(LONGEST_ROW_BYTES):
            line = line.removeprefix(BOM_UTF8)
            try:
                row = DECODER.decode(line.decode())
            except (ValueError, RecursionError):
                continue
            if isinstance(row, dict) and type(row.get("step")) is int:
                yield line, row


def whole(text: str) -> int | float:
    """A whole number of a row; one that no float can be is infinite."""
    return int(text) if len(text) < MOST_DIGITS else float(text)


DECODER = json.JSONDecoder(parse_int=whole)


def finite(row: Mapping[str, Any]) -> dict[str, Any]:
    """Strict JSON has no NaN: such a float becomes None beside `<name>_is`: "nan", "inf" or "-inf"."""
    clean = dict[str, Any]()
    for name, value in row.items():
        clean[name] = plain = _plain(value)
        if isinstance(plain, float) and not math.isfinite(plain):
            clean[name], clean[f"{name}_is"] = None, str(plain)
    return clean


def _plain(value: Any) -> Any:
    if hasattr(value, "item"):  # a NumPy or torch scalar
        return value.item()
    if isinstance(value, Mapping):
        return finite(value)
    if isinstance(value, (list, tuple)):
        plain = [_plain(member) for member in value]
        return [None if isinstance(member, float) and not math.isfinite(member) else member for member in plain]
    return value


def _line(row: Mapping[str, Any]) -> bytes:
    text = json.dumps(finite(row), allow_nan=False, ensure_ascii=False) + "\n"
    return text.encode(errors="backslashreplace")  # a lone surrogate becomes its JSON escape
