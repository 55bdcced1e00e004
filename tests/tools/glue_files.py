"""A few hand-written rows of every task, as GLUE's own TSV files have them and as they should be read."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import datasets
import pyarrow.parquet as pq
import pytest

from galore.trainer.common.errors import UserError
from galore.trainer.data.glue.readers import read_split
from galore.trainer.data.glue.rows import Example
from galore.trainer.tasks.glue import TASKS, Task

PARSES = "( a )\t( b )\t(ROOT a)\t(ROOT b)"  # the four columns of MNLI that nobody needs


class Hand(NamedTuple):
    """Rows of one task."""

    tsv: dict[str, str]  # file name: content
    examples: dict[str, list[Example]]  # split: what the file holds


HAND: dict[str, Hand] = {
    "cola": Hand(
        {
            "train.tsv": 'gj04\t1\t\tShe said "no.\ngj04\t0\t*\tHim ran the.\nks08\t1\t\tCafé doors\u2028open.\n',
            "dev.tsv": "ad03\t0\t*\tThe of and.\n",
            "test.tsv": "index\tsentence\n0\tBill slept.\n1\tSlept bill the.\n",
        },
        {
            "train": [
                Example('She said "no.', None, 1, 0),
                Example("Him ran the.", None, 0, 1),
                Example("Café doors\u2028open.", None, 1, 2),
            ],
            "validation": [Example("The of and.", None, 0, 0)],
            "test": [Example("Bill slept.", None, None, 0), Example("Slept bill the.", None, None, 1)],
        },
    ),
    "sst2": Hand(
        {
            "train.tsv": 'sentence\tlabel\ngrim and "slow \t0\na joy \t1\n',
            "dev.tsv": "sentence\tlabel\nwarm . \t1\n",
            "test.tsv": "index\tsentence\n0\tflat jokes\n",
        },
        {
            "train": [Example('grim and "slow ', None, 0, 0), Example("a joy ", None, 1, 1)],
            "validation": [Example("warm . ", None, 1, 0)],
            "test": [Example("flat jokes", None, None, 0)],
        },
    ),
    "mrpc": Hand(
        {
            "train.tsv": "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n"
            '1\t70\t71\tHe "fell.\tHe had a fall.\r\n0\t72\t73\tRain fell.\tSun shone.\r\n',
            "dev.tsv": "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t80\t81\tUp.\tDown.\n",
            "test.tsv": "index\t#1 ID\t#2 ID\t#1 String\t#2 String\n7\t90\t91\tOne.\tTwo.\n",
        },
        {
            "train": [Example('He "fell.', "He had a fall.", 1, 0), Example("Rain fell.", "Sun shone.", 0, 1)],
            "validation": [Example("Up.", "Down.", 0, 0)],
            "test": [Example("One.", "Two.", None, 7)],
        },
    ),
    "stsb": Hand(
        {
            "train.tsv": "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"
            "0\tnews\tf\t2012\t1\tnone\tnone\tA dog.\tThe dog.\t4.250\n"
            "1\tnews\tf\t2012\t2\tnone\tnone\tA dog.\tA law.\t0.000\n",
            "dev.tsv": "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"
            "0\tnews\tf\t2012\t1\tnone\tnone\tSame.\tSame.\t5.000\n",
            "test.tsv": "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\n"
            "0\tnews\tf\t2012\t1\tnone\tnone\tTest.\tTests.\n",
        },
        {
            "train": [Example("A dog.", "The dog.", 4.25, 0), Example("A dog.", "A law.", 0.0, 1)],
            "validation": [Example("Same.", "Same.", 5.0, 0)],
            "test": [Example("Test.", "Tests.", None, 0)],
        },
    ),
    "qqp": Hand(
        {
            "train.tsv": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
            "133273\t1\t2\tWho?\tWhom?\t0\n5\t3\t4\tHow so?\tHow?\t1\n9\t5\t6\tWhat now?\t\t0\n",
            "dev.tsv": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n3\t1\t2\tWhy?\tWhy so?\t1\n",
            "test.tsv": "id\tquestion1\tquestion2\n0\tWhere?\tWhere to?\n",
        },
        {
            "train": [
                Example("Who?", "Whom?", 0, 133273),
                Example("How so?", "How?", 1, 5),
                Example("What now?", "", 0, 9),
            ],
            "validation": [Example("Why?", "Why so?", 1, 3)],
            "test": [Example("Where?", "Where to?", None, 0)],
        },
    ),
    "mnli": Hand(
        {
            "train.tsv": "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\t"
            "sentence1_parse\tsentence2_parse\tsentence1\tsentence2\tlabel1\tgold_label\n"
            f"0\t31\t31n\tfiction\t{PARSES}\tIt rained.\tIt was wet.\tneutral\tentailment\n"
            f"1\t32\t32c\tslate\t{PARSES}\tHe left.\tHe stayed.\tneutral\tcontradiction\n"
            f"2\t33\t33n\tslate\t{PARSES}\tShe sang.\tShe sang well.\tneutral\tneutral\n",
            "dev_matched.tsv": "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\t"
            "sentence1_parse\tsentence2_parse\tsentence1\tsentence2\tlabel1\tlabel2\tlabel3\tlabel4\tlabel5\tgold_label\n"
            f"0\t31\t31n\tslate\t{PARSES}\tNear.\tClose.\tneutral\tneutral\tneutral\tneutral\tneutral\tentailment\n",
            "dev_mismatched.tsv": "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\t"
            "sentence1_parse\tsentence2_parse\tsentence1\tsentence2\tlabel1\tlabel2\tlabel3\tlabel4\tlabel5\tgold_label\n"
            f"0\t31\t31n\tletters\t{PARSES}\tFar.\tNear.\tneutral\tneutral\tneutral\tneutral\tneutral\tcontradiction\n",
            "test_matched.tsv": "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\t"
            f"sentence1_parse\tsentence2_parse\tsentence1\tsentence2\n4\t31\t31\tslate\t{PARSES}\tM.\tN.\n",
            "test_mismatched.tsv": "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\t"
            f"sentence1_parse\tsentence2_parse\tsentence1\tsentence2\n0\t31\t31\tslate\t{PARSES}\tO.\tP.\n",
        },
        {
            "train": [
                Example("It rained.", "It was wet.", 0, 0),
                Example("He left.", "He stayed.", 2, 1),
                Example("She sang.", "She sang well.", 1, 2),
            ],
            "validation_matched": [Example("Near.", "Close.", 0, 0)],
            "validation_mismatched": [Example("Far.", "Near.", 2, 0)],
            "test_matched": [Example("M.", "N.", None, 4)],
            "test_mismatched": [Example("O.", "P.", None, 0)],
        },
    ),
    "qnli": Hand(
        {
            "train.tsv": "index\tquestion\tsentence\tlabel\n0\tWho won?\tJo won.\tentailment\n"
            "1\tWhen?\tIt is red.\tnot_entailment\n",
            "dev.tsv": "index\tquestion\tsentence\tlabel\n0\tWhere?\tIn Rome.\tentailment\n",
            "test.tsv": "index\tquestion\tsentence\n0\tWhy?\tBecause.\n",
        },
        {
            "train": [Example("Who won?", "Jo won.", 0, 0), Example("When?", "It is red.", 1, 1)],
            "validation": [Example("Where?", "In Rome.", 0, 0)],
            "test": [Example("Why?", "Because.", None, 0)],
        },
    ),
    "rte": Hand(
        {
            "train.tsv": "index\tsentence1\tsentence2\tlabel\n0\tOil fell.\tOil rose.\tnot_entailment\n"
            "1\tIt snows.\tIt is cold.\tentailment\n",
            "dev.tsv": "index\tsentence1\tsentence2\tlabel\n0\tA.\tB.\tentailment\n",
            "test.tsv": "index\tsentence1\tsentence2\n0\tC.\tD.\n",
        },
        {
            "train": [Example("Oil fell.", "Oil rose.", 1, 0), Example("It snows.", "It is cold.", 0, 1)],
            "validation": [Example("A.", "B.", 0, 0)],
            "test": [Example("C.", "D.", None, 0)],
        },
    ),
    "wnli": Hand(
        {
            "train.tsv": "index\tsentence1\tsentence2\tlabel\n0\tIt broke it.\tThe cup broke it.\t0\n1\tE.\tF.\t1\n",
            "dev.tsv": "index\tsentence1\tsentence2\tlabel\n0\tG.\tH.\t1\n",
            "test.tsv": "index\tsentence1\tsentence2\n0\tI.\tJ.\n",
        },
        {
            "train": [Example("It broke it.", "The cup broke it.", 0, 0), Example("E.", "F.", 1, 1)],
            "validation": [Example("G.", "H.", 1, 0)],
            "test": [Example("I.", "J.", None, 0)],
        },
    ),
}

Write = Callable[[Path, str], None]


def hub_row(task: Task, example: Example) -> dict[str, str | float | None]:
    """A row with the columns of the hub, which marks a missing label by -1."""
    texts = {task.text_a: example.text_a} | ({} if task.text_b is None else {task.text_b: example.text_b})
    return texts | {"label": -1 if example.label is None else example.label, "idx": example.index}


def hub_features(task: Task) -> datasets.Features:
    texts = [name for name in (task.text_a, task.text_b) if name is not None]
    label = datasets.Value("float32") if task.is_regression else datasets.ClassLabel(names=list(task.labels))
    return datasets.Features(
        {name: datasets.Value("string") for name in texts} | {"label": label, "idx": datasets.Value("int32")}
    )


def write_tsv(folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in HAND[name].tsv.items():
        (folder / file).write_bytes(content.encode())


def write_jsonl(folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for split, examples in HAND[name].examples.items():
        lines = [json.dumps(hub_row(TASKS[name], example)) + "\n" for example in examples]
        (folder / f"{split}.jsonl").write_text("".join(lines))


def write_parquet(folder: Path, name: str) -> None:
    """As the hub stores it: a table a split, with what `datasets` notes about the labels."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, examples in HAND[name].examples.items():
        rows = [hub_row(TASKS[name], example) for example in examples]
        table = datasets.Dataset.from_list(rows, features=hub_features(TASKS[name])).data.table
        pq.write_table(table, folder / f"{split}-00000-of-00001.parquet")


def zipped(write: Write) -> Write:
    def write_zipped(folder: Path, name: str) -> None:
        write(folder, name)
        for path in list(folder.iterdir()):
            path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()

    return write_zipped


LAYOUTS: dict[str, Write] = {
    "tsv": write_tsv,
    "jsonl": write_jsonl,
    "parquet": write_parquet,
    "tsv.gz": zipped(write_tsv),
    "jsonl.gz": zipped(write_jsonl),
    "parquet.gz": zipped(write_parquet),
}


@pytest.fixture(params=list(TASKS))
def task(request: pytest.FixtureRequest) -> Task:
    return TASKS[request.param]


@pytest.fixture
def examples(task: Task) -> dict[str, list[Example]]:
    """What the files of the task hold, by split."""
    return HAND[task.name].examples


@pytest.fixture(params=list(LAYOUTS))
def layout(request: pytest.FixtureRequest) -> Write:
    """Writes all splits of a task into a folder."""
    return LAYOUTS[request.param]


@pytest.fixture
def write_as() -> dict[str, Write]:
    return LAYOUTS


@pytest.fixture
def refused() -> Callable[[str, Path, str, int | None], None]:
    """Reading the training split beside `path` fails with one sentence that begins so, the place, and what to do."""

    def check(name: str, path: Path, what: str, line: int | None) -> None:
        with pytest.raises(UserError) as caught:
            read_split(TASKS[name], "train", path.parent)
        error = caught.value
        assert type(error) is UserError
        assert error.what.startswith(what)
        assert error.where == (f"{path}:{line}" if line else str(path))
        assert error.fix
        assert "\n" not in error.what + error.fix

    return check
