from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from galore.trainer.common.errors import UserError
from galore.trainer.data.glue import readarrow
from galore.trainer.data.glue.readers import read_split
from galore.trainer.data.glue.rows import Example
from galore.trainer.tasks.glue import TASKS, Task

Write = Callable[[Path, str], None]
Refused = Callable[[str, Path, str, int | None], None]


@pytest.mark.parametrize("where", ["{folder}", "{name}", "data/{folder}", "{name}/data", "."])
def test_every_task_in_every_layout(
    tmp_path: Path, task: Task, examples: dict[str, list[Example]], layout: Write, where: str
) -> None:
    layout(tmp_path / where.format(folder=task.folder, name=task.name), task.name)
    assert list(examples) == list(task.sizes)
    for split, expected in examples.items():
        rows = read_split(task, split, tmp_path)
        assert list(rows) == expected
        assert [type(row.label) for row in rows] == [type(row.label) for row in expected]


def test_layouts_are_the_same_data(tmp_path: Path, task: Task, write_as: dict[str, Write]) -> None:
    for name, write in write_as.items():
        write(tmp_path / name / task.name, task.name)
    prints = {read_split(task, "train", tmp_path / name).fingerprint for name in write_as}
    assert len(prints) == 1


def hub_copy(folder: Path, task: Task, write: Write) -> str:
    """A folder with the task as a configuration, as a data set on the hub has it."""
    write(folder / task.name, task.name)
    files = [{"split": split, "path": f"{task.name}/{split}-*"} for split in task.sizes]
    card = {"configs": [{"config_name": task.name, "data_files": files}]}
    (folder / "README.md").write_text(f"---\n{json.dumps(card)}\n---\n")
    return str(folder)


def test_every_task_through_datasets(
    tmp_path: Path,
    task: Task,
    examples: dict[str, list[Example]],
    write_as: dict[str, Write],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copy, load = hub_copy(tmp_path / "copy", task, write_as["parquet"]), datasets.load_dataset
    monkeypatch.setattr(datasets, "load_dataset", lambda path, *rest, **more: load(copy, *rest, **more))
    for split, expected in examples.items():
        rows = read_split(task, split, "nyu-mll/glue", tmp_path / "cache")
        assert list(rows) == expected
        assert rows.where(0) == f"nyu-mll/glue [{task.name}, {split}]:1"
    assert (tmp_path / "cache").is_dir()


def test_the_hub_is_told_what_to_load(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*args: object, **options: object) -> None:
        raise ConnectionError(f"{args} {options}\nmore")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(UserError) as caught:
        read_split(TASKS["rte"], "train", "nyu-mll/glue")
    assert str(caught.value) == (
        "nyu-mll/glue [rte, train]: neither a folder here nor a data set of the hub that can be opened "
        "(('nyu-mll/glue', 'rte') {'split': 'train', 'cache_dir': None})\n"
        "  → check the name and the network, or name a local folder of GLUE with --data-dir"
    )


def test_a_hub_copy_with_other_labels_is_refused(tmp_path: Path, write_as: dict[str, Write]) -> None:
    folder = tmp_path / "glue"
    write_as["parquet"](folder / "qnli", "wnli")
    with pytest.raises(UserError, match=r"no column `question` among sentence1, sentence2, label, idx"):
        read_split(TASKS["qnli"], "train", folder)
    (folder / "qnli").rename(folder / "rte")
    with pytest.raises(UserError, match=r"label ids mean not_entailment, entailment, those of RTE entailment, not_ent"):
        read_split(TASKS["rte"], "train", folder)
    copy = hub_copy(tmp_path / "copy", TASKS["rte"], lambda to, _: write_as["parquet"](to, "wnli"))
    with pytest.raises(readarrow.Fault, match="label ids mean"):
        list(readarrow.read_hub(copy, TASKS["rte"], "train", tmp_path / "cache"))


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("nowhere", "no such folder"),
        ("./nyu-mll/glue", "no such folder"),
        ("../glue", "no such folder"),
        ("/data/glue", "no such folder"),
        ("nyu-mll/glue/cola", "no such folder"),
        ("file.tsv", "is a file, not a folder"),
    ],
)
def test_wrong_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, what: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file.tsv").touch()
    with pytest.raises(UserError) as caught:
        read_split(TASKS["cola"], "train", source)
    assert (caught.value.what, caught.value.where) == (what, source)
    assert "nyu-mll/glue" in caught.value.fix


def test_a_split_that_the_task_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"MNLI has no split `validation`\n.*train, validation_matched, validation_mism"
    ):
        read_split(TASKS["mnli"], "validation", tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "what"),
    [
        ("train.tsv", b"", "holds no rows"),
        ("train.tsv", b"sentence\tlabel\n", "holds no rows"),
        ("train.jsonl", b"\n\n", "holds no rows"),
        ("train.parquet", b"", "not a readable parquet file"),
        ("train.parquet", b"PAR1 and nothing else PAR1", "not a readable parquet file"),
        ("train.tsv.gz", b"\x1f\x8b no gzip", "damaged or truncated gzip data"),
        ("train.jsonl.gz", b"sentence\tlabel\n", "damaged or truncated gzip data"),
    ],
)
def test_empty_and_damaged_files(tmp_path: Path, file: str, content: bytes, what: str, refused: Refused) -> None:
    (tmp_path / file).write_bytes(content)
    refused("sst2", tmp_path / file, what, None)


def test_a_labelled_test_split_keeps_its_labels(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text('{"sentence": "a", "label": 1}\n{"sentence": "b"}\n')
    rows = read_split(TASKS["sst2"], "test", tmp_path)
    assert [row.label for row in rows] == [1, None]
    assert rows.labels.tolist() == [1, -1]


MEMORY = """
    import sys
    from pathlib import Path
    from galore.trainer.data.glue.readers import read_split
    from galore.trainer.tasks.glue import TASKS
    rows = read_split(TASKS[sys.argv[1]], "train", sys.argv[2])
    assert rows[len(rows) - 1].text_b.endswith(str(len(rows) - 1))
    assert "torch" not in sys.modules
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(len(rows), int(peak.split()[1]) / 2**20)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of resident memory from /proc")
@pytest.mark.parametrize("name", ["mnli", "qqp"])
@pytest.mark.parametrize("format", ["tsv", "jsonl", "parquet"])
def test_the_largest_tasks_fit_two_gigabytes(tmp_path: Path, name: str, format: str) -> None:
    task = TASKS[name]
    write_long(tmp_path / f"train.{format}", task)
    command = [sys.executable, "-c", textwrap.dedent(MEMORY), name, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    length, gib = done.stdout.split()
    assert int(length) == task.sizes["train"]
    assert float(gib) < 0.4  # twice what is needed; 2 are allowed


def write_long(path: Path, task: Task) -> None:
    rows = (long_row(task, number) for number in range(task.sizes["train"]))
    if path.suffix == ".parquet":
        first = pa.Table.from_pylist([long_row(task, 0)])
        with pq.ParquetWriter(path, first.schema) as writer:
            while many := list(itertools.islice(rows, 10_000)):
                writer.write_table(pa.Table.from_pylist(many))
        return
    with path.open("w") as file:
        if path.suffix == ".tsv":
            file.write("\t".join(long_row(task, 0)) + "\n")
        for row in rows:
            file.write((json.dumps(row) if path.suffix == ".jsonl" else "\t".join(map(str, row.values()))) + "\n")


def long_row(task: Task, number: int) -> dict[str, object]:
    """About as long as those of MNLI: 115 and 55 characters, with parse trees beside them."""
    texts = {task.text_a: "the long premise " * 7, str(task.text_b): f"the hypothesis of the row, made up {number}"}
    return {"parse": "( ( ( a ) b ) c )" * 20, **texts, "label": number % task.num_labels, "idx": number}


@pytest.mark.parametrize(("name", "headline"), [("cola", 0.689), ("sst2", 0.509), ("mrpc", 0.684), ("stsb", None)])
def test_real_data_has_the_official_sizes(name: str, headline: float | None) -> None:
    """And the share of the majority class that is published for its validation split."""
    root = Path(os.environ.get("GALORE_TEST_DATA") or Path(__file__).parents[5] / "shared" / "data")
    if not (root / "glue" / name).is_dir():
        pytest.skip("set GALORE_TEST_DATA to a folder with glue/cola, sst2, mrpc and stsb")
    task = TASKS[name]
    train, validation = (read_split(task, split, root / "glue") for split in ("train", "validation"))
    assert (len(train), len(validation)) == (task.sizes["train"], task.sizes["validation"])
    assert headline is None or np.bincount(validation.labels).max() / len(validation) == pytest.approx(
        headline, abs=5e-4
    )
