"""Which files of a local folder hold one split of one task, in any of the layouts people have."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from galore.trainer.common.errors import UserError
from galore.trainer.data.glue.readmsr import FILES as MSR_FILES
from galore.trainer.tasks.glue import TASKS, Task

SPELLINGS = {"sst": "sst2", "sts": "stsb", "stsbenchmark": "stsb", "multinli": "mnli"}  # besides the names of TASKS
VALIDATION_NAMES = ("validation", "dev", "valid", "val")
FORMATS = {"parquet": "parquet", "jsonl": "jsonl", "ndjson": "jsonl", "json": "jsonl", "tsv": "tsv"}
FILE_NAME = re.compile(
    r"(?:glue-)?(?P<split>[a-z_-]+?)"
    r"(?:-(?P<shard>\d{5})-of-(?P<count>\d{5})(?:-[0-9a-f]+)?)?"
    rf"\.(?P<format>{'|'.join(FORMATS)})(?:\.gz)?"
)
CONVERTED = re.compile(r"\d{4}\.parquet")  # in a folder named after the split: the hub's own conversion


@dataclass(frozen=True)
class SplitFiles:
    """The files of one split, in order, and how to read them: parquet, jsonl, tsv or msr."""

    format: str
    paths: tuple[Path, ...]


def find_split(task: Task, split: str, source: Path) -> SplitFiles:
    """The files of a split in the folder `source`: of all tasks, or of this one.

    Raises:
        UserError: the folder is another task's, nothing is there, more than one layout is, or a shard is missing.
    """
    folders = task_folders(task, source)
    found = {files.paths[0]: files for folder in folders for files in _candidates(task, split, folder)}
    if not found and task.name == "mrpc":
        msr = [folder / MSR_FILES[split] for folder in folders]
        found = {path: SplitFiles("msr", (path,)) for path in msr if path.is_file()}
    if not found:
        raise _nothing(task, split, source, folders)
    if len(found) > 1:
        names = ", ".join(str(path.relative_to(source)) for path in sorted(found))
        fix = "keep one of them, or name a folder that holds only one"
        raise UserError(
            f"the split `{split}` of {task.folder} is there more than once: {names}", where=str(source), fix=fix
        )
    return next(iter(found.values()))


def task_folders(task: Task, source: Path) -> list[Path]:
    """Where files of the task may be: in folders named after it, or in `source` itself; each with its `data/`.

    Raises:
        UserError: `source` is the folder of another task.
    """
    own = [folder for folder in _folders_of_tasks(source) if task_of_folder(folder) == task.name]
    if not own:
        other = task_of_folder(source.resolve())
        if other not in (None, task.name):
            what = f"is the folder of {TASKS[str(other)].folder}, not of {task.folder}"
            raise UserError(what, where=str(source), fix=f"name the folder of {task.folder}, or the one above both")
        own = [source]
    return [place for folder in own for place in (folder, folder / "data") if place.is_dir()]


def task_of_folder(folder: Path) -> str | None:
    """The task that a folder is named after, in any usual spelling: SST-2, sst2, sst_2, SST …"""
    name = re.sub(r"[-_ ]", "", folder.name.lower())
    name = SPELLINGS.get(name, name)
    return name if name in TASKS else None


def _folders_of_tasks(source: Path) -> list[Path]:
    parents = [parent for parent in (source, source / "data") if parent.is_dir()]
    children = [child for parent in parents for child in sorted(parent.iterdir())]
    return [child for child in children if task_of_folder(child) is not None and child.is_dir()]


def _candidates(task: Task, split: str, folder: Path) -> Iterator[SplitFiles]:
    """The sets of files that could be the split."""
    shards = dict[tuple[str, int], list[Path]]()  # by format and how many there should be
    for path in sorted(folder.iterdir()):
        match = FILE_NAME.fullmatch(path.name.lower())
        if match and path.is_file() and _split_of(match["split"]) == split:
            format = FORMATS[match["format"]]
            if match["shard"]:
                shards.setdefault((format, int(match["count"])), []).append(path)
            else:
                yield SplitFiles(format, (path,))
        elif path.is_dir() and _split_of(path.name.lower()) == split:
            converted = tuple(part for part in sorted(path.iterdir()) if CONVERTED.fullmatch(part.name))
            if converted:
                yield SplitFiles("parquet", converted)
    for (format, count), paths in shards.items():
        _require_all(paths, count)
        yield SplitFiles(format, tuple(paths))


def _split_of(name: str) -> str:
    """`dev_matched` is `validation_matched`, and `valid` is `validation`."""
    first, _, rest = name.replace("-", "_").partition("_")
    first = "validation" if first in VALIDATION_NAMES else first
    return f"{first}_{rest}" if rest else first


def _require_all(paths: list[Path], count: int) -> None:
    there = [int(number) for path in paths for number in re.findall(r"-(\d{5})-of-", path.name.lower())]
    missing = sorted(set(range(count)) - set(there))
    if missing:
        what = f"has {len(there)} of {count} shards; the first that is missing is {missing[0]:05d}-of-{count:05d}"
        raise UserError(what, where=str(paths[0].parent), fix="fetch the missing ones")
    if len(there) > count:
        raise UserError(f"has a shard twice: {', '.join(path.name for path in paths)}", where=str(paths[0].parent))


def _nothing(task: Task, split: str, source: Path, folders: list[Path]) -> UserError:
    others = ", ".join(folder.name for folder in _folders_of_tasks(source))
    if others and folders[:1] == [source]:
        fix = f"put it beside them as {task.folder}/ or {task.name}/"
        return UserError(f"has no folder of {task.folder}, but of {others}", where=str(source), fix=fix)
    for path in (path for folder in folders for path in folder.iterdir()):
        match = FILE_NAME.fullmatch(path.name.lower())
        if match and _split_of(match["split"]) == split and not path.is_dir():
            return UserError("is no regular file", where=str(path), fix="put the file itself there")
    there = ", ".join(sorted(path.name for folder in folders for path in folder.iterdir())[:12]) or "nothing"
    dev = split.replace("validation", "dev")
    fix = f"it would be {split}.parquet, {split}-00000-of-00001.parquet, {split}.jsonl or {dev}.tsv, each also with .gz"
    what = f"no file of the split `{split}` of {task.folder}; there is {there}"
    return UserError(what, where=str(folders[0]), fix=fix)
