"""Which files a recipe means: a file, a folder, a glob, or a list of them."""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from galore.trainer.common.errors import UserError
from galore.trainer.common.printable import listed
from galore.trainer.common.reading import NotReadable, is_there, read_bounded, require_regular, user_path
from galore.trainer.common.suggest import nearest
from galore.trainer.data.formats.compression import COMPRESSIONS, compression_of
from galore.trainer.data.text.kinds import FORMAT_OF_SUFFIX, KINDS, READ, Format, format_of
from galore.trainer.recipe.extras import refuse_missing

# how a file of a kind that is not read becomes one that is
REMEDIES = {
    (".zip", ".tar", ".tgz", ".7z"): "unpack it; single files may be packed as .gz, .bz2, .xz or .zst",
    (".xlsx", ".xls", ".ods"): "save the sheet as csv, whose first line names the columns",
    (".epub", ".html", ".htm", ".docx", ".odt", ".rtf"): "make text of it: pandoc -t plain -o NAME.txt NAME",
    (".pdf",): "make text of it: pdftotext NAME.pdf NAME.txt",
    (
        ".md",
        ".rst",
        ".tex",
        ".log",
        ".srt",
        ".py",
    ): "to read such files as plain text, name them by a glob and set data.format: txt",
}
# beside the rows that `save_to_disk` of datasets writes, they describe them
DESCRIPTIONS = ("dataset_dict.json", "dataset_info.json", "state.json")

HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
SPLIT = re.compile(r"(train|test|validation|valid|val|dev|eval)(?![a-z])", re.IGNORECASE)


@dataclass(frozen=True)
class DataFile:
    path: Path
    format: Format


def find_files(paths: str | list[str], base_dir: Path, format: str, key: str) -> tuple[DataFile, ...]:
    """Files in the order of the list, sorted within a folder or glob, each one once.

    Args:
        paths: files, folders (searched to any depth) or globs, relative to `base_dir`.
        format: `auto` goes by the file name, and takes of a folder the files of the lowest rank, see `kinds`;
            another value says what every named file is.
        key: recipe key, for error messages.

    Raises:
        UserError: nothing there, a file whose name does not tell its format, or parquet without the package that reads
            it.
    """
    found = dict[Path, DataFile]()
    for pattern in [paths] if isinstance(paths, str) else paths:
        for file in _expand(pattern, base_dir, format, key):
            found.setdefault(file.path.resolve(), file)
    if not found:
        raise UserError("is an empty list", where=key, fix="name at least one file, folder or glob")
    for file in found.values():
        packed = compression_of(file.path.name)
        for package in (KINDS[file.format].package, packed.package if packed else ""):
            if package:
                refuse_missing(package, file.path.name, key)
    return tuple(found.values())


def passed_over(paths: str | list[str], base_dir: Path, files: Sequence[DataFile]) -> list[str]:
    """Names of what lies in the folders that are named, is not hidden, and is not among the files that are read."""
    read = {file.path for file in files}
    folders = [base_dir / Path(pattern).expanduser() for pattern in ([paths] if isinstance(paths, str) else paths)]
    left = (path for folder in folders if folder.is_dir() for path in _visible(folder) if path not in read)
    return [path.name for path in left]


def splits_among(paths: str | list[str], base_dir: Path, files: Sequence[DataFile]) -> list[str]:
    """Names of the splits, `train` and others, whose files are all read because the folder around them is named."""
    folders = [base_dir / Path(pattern).expanduser() for pattern in ([paths] if isinstance(paths, str) else paths)]
    found = set[str]()
    for folder in [each for each in folders if each.is_dir()]:
        inside = [file.path.relative_to(folder) for file in files if file.path.is_relative_to(folder)]
        words = (match[0].lower() for path in inside for part in path.parts if (match := SPLIT.match(part)))
        found |= set(words)
    return sorted(found) if "train" in found and len(found) > 1 else []


def _expand(pattern: str, base_dir: Path, format: str, key: str) -> list[DataFile]:
    path = base_dir / user_path(pattern)
    if path.is_dir():
        files = [file for file in _in_folder(path) if format in ("auto", file.format)]
        if any(file.format == "arrow" for file in files):
            files = [file for file in files if not _beside_arrow(file.path.name)]
            files = _as_saved(files, key)
        if format == "auto":
            ranks = [KINDS[file.format].rank for file in files]
            files = [file for file, rank in zip(files, ranks, strict=True) if rank == min(ranks)]
    elif is_there(path):
        _require_regular(path, key)
        files = [_named(path, format, key)]
    else:
        files = [_named(match, format, key) for match in _matching(path) if match.is_file()]
    if not files:
        raise _nothing_found(pattern, path, base_dir, format, key)
    return files


def _nothing_found(pattern: str, path: Path, base_dir: Path, format: str, key: str) -> UserError:
    kind = READ if format == "auto" else format
    if path.is_symlink() and not path.exists():
        return UserError(f"{path} is a link to {path.readlink()}, which is not there", where=key, fix="mend the link")
    if not path.is_dir():
        beside = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
        near = nearest(path.name, beside)
        relative = "" if user_path(pattern).is_absolute() else f": `{pattern}` is looked for relative to {base_dir}"
        fix = f"did you mean {path.with_name(near[0])}?" if near else f"check the name{relative}"
        if key == "data.path" and HUB_NAME.fullmatch(pattern) and format_of(path) is None:
            fix += f"; if {pattern} is a data set of the hub, set source: hub beside it"
        return UserError(f"no file matches {path}", where=key, fix=fix)
    names = [found.name for found in _visible(path)]
    if not names:
        fix = f"put {kind} files into it, or name the folder that has them"
        return UserError(f"the folder {path} is empty", where=key, fix=fix)
    known = next((remedy for name in names if (remedy := remedy_for(name))), "name the folder that has them")
    what = f"no {kind} file in the folder {path}, which holds {listed(names)}"
    return UserError(what, where=key, fix=known if format == "auto" else f"data.format: auto takes every kind; {known}")


def remedy_for(name: str) -> str:
    """How a file of a kind that is not read becomes one that is; "" where nothing is known."""
    return next((remedy for suffixes, remedy in REMEDIES.items() if name.lower().endswith(suffixes)), "")


def _require_regular(path: Path, key: str) -> None:
    try:
        require_regular(path)
    except NotReadable as error:
        fix = "name a file, a folder or a glob; write what a pipe gives to a file first"
        raise UserError(f"{path} {error.strerror}", where=key, fix=fix) from None


def _in_folder(folder: Path) -> Iterator[DataFile]:
    named = ((path, format_of(path)) for path in _visible(folder))
    yield from (DataFile(path, name) for path, name in named if name is not None)


def _as_saved(files: list[DataFile], key: str) -> list[DataFile]:
    """Files without those of an earlier save, in folders of `save_to_disk` of datasets: state.json names the others.

    Raises UserError for one that is not there.
    """
    kept = list[DataFile]()
    for folder in dict.fromkeys(file.path.parent for file in files):
        here = {file.path.name: file for file in files if file.path.parent == folder}
        named = _named_in_state(folder / "state.json")
        if absent := [name for name in named if not (folder / name).is_file()]:
            what = f"{folder / absent[0]} is not there, and state.json beside it names it"
            raise UserError(what, where=key, fix="fetch or save the data set again")
        kept += [file for name, file in here.items() if not named or name in named]
    return kept


def _named_in_state(path: Path) -> list[str]:
    try:
        names = [each["filename"] for each in json.loads(read_bounded(path))["_data_files"]]
    except (OSError, ValueError, RecursionError, LookupError, TypeError):
        return []
    return [name for name in names if isinstance(name, str)]


def _beside_arrow(name: str) -> bool:
    """Whether datasets wrote it beside the rows: what describes them, or what `map` made of them."""
    return name in DESCRIPTIONS or (name.startswith("cache-") and name.endswith(".arrow"))


def _visible(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if not _hidden(path, folder) and path.is_file():
            yield path


def _matching(pattern: Path) -> list[Path]:
    """What a glob means, sorted: hidden names only where it says so, and `**` goes through no link to a folder.

    A link may lead back up: there is then no end of paths.
    """
    wild = next((index for index, part in enumerate(pattern.parts) if glob.has_magic(part)), None)
    if wild is None:
        return []
    above = Path(*pattern.parts[:wild])
    # within a name ** is *, and at the end it means files
    parts = [part if part == "**" else re.sub(r"\*+", "*", part) for part in pattern.parts[wild:]]
    parts += ["*"] if parts[-1] == "**" else []
    dotted = [part for part in parts if part.startswith(".")]
    found = {each for each in above.glob("/".join(parts)) if not _hidden(each, above, dotted)}
    return sorted(found, key=str)


def _hidden(path: Path, folder: Path, asked: Sequence[str] = ()) -> list[str]:
    """Names on the way from `folder` to `path` that begin with a dot, those left out that a pattern asks for."""
    names = (name for name in path.relative_to(folder).parts if name.startswith(".") and name != "..")
    return [name for name in names if not any(fnmatch(name, pattern) for pattern in asked)]


def _named(path: Path, format: str, key: str) -> DataFile:
    name = format_of(path) if format == "auto" else next((known for known in KINDS if known == format), None)
    if name is None:
        fix = f"set data.format, or use one of {', '.join(FORMAT_OF_SUFFIX)} (each also with {', '.join(COMPRESSIONS)})"
        raise UserError(f"cannot tell the format of {path}", where=key, fix=remedy_for(path.name) or fix)
    return DataFile(path, name)
