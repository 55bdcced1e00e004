from __future__ import annotations

import json
import os
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from architectures import DECODERS
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from galore.trainer.common.errors import RunFailed, UserError
from galore.trainer.recipe.load import load_recipe
from galore.trainer.sweep.glue import submission
from galore.trainer.sweep.glue.submission import incomplete, submission_name, write_submission
from galore.trainer.tasks.glue import TASKS


def test_names() -> None:
    names = [submission_name(task, split) for task in TASKS.values() for split in task.test_splits]
    assert " ".join(names) == (
        "CoLA.tsv SST-2.tsv MRPC.tsv STS-B.tsv QQP.tsv MNLI-m.tsv MNLI-mm.tsv QNLI.tsv RTE.tsv WNLI.tsv"
    )
    with pytest.raises(ValueError, match="`validation` is no test split of RTE"):
        submission_name(TASKS["rte"], "validation")


@pytest.mark.parametrize(
    ("name", "split", "predictions", "content"),
    [
        ("cola", "test", [1, 0], b"index\tprediction\n0\t1\n1\t0\n"),
        ("sst2", "test", [1, 0], b"index\tprediction\n0\t1\n1\t0\n"),
        ("mrpc", "test", [1, 0], b"index\tprediction\n0\t1\n1\t0\n"),
        ("qqp", "test", [1, 0], b"index\tprediction\n0\t1\n1\t0\n"),
        ("wnli", "test", [1, 0], b"index\tprediction\n0\t1\n1\t0\n"),
        ("qnli", "test", [1, 0], b"index\tprediction\n0\tnot_entailment\n1\tentailment\n"),
        ("rte", "test", [1, 0], b"index\tprediction\n0\tnot_entailment\n1\tentailment\n"),
        ("mnli", "test_matched", [0, 1, 2], b"index\tprediction\n0\tentailment\n1\tneutral\n2\tcontradiction\n"),
        ("stsb", "test", [-0.2, 5.3, 3.14159], b"index\tprediction\n0\t0.000\n1\t5.000\n2\t3.142\n"),
    ],
)
@pytest.mark.parametrize("array", [False, True])
def test_to_the_byte(
    tmp_path: Path, name: str, split: str, predictions: list[float], content: bytes, array: bool
) -> None:
    given = np.array(predictions) if array else predictions
    path = write_submission(tmp_path, TASKS[name], split, given, range(len(predictions)))
    assert path == tmp_path / submission_name(TASKS[name], split)
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_rows_are_ordered_by_index(tmp_path: Path) -> None:
    path = write_submission(tmp_path, TASKS["sst2"], "test", [1, 0, 1], [2, 0, 10])
    assert path.read_text() == "index\tprediction\n0\t0\n2\t1\n10\t1\n"


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_submission(tmp_path, TASKS["sst2"], "test", [1], [0])

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_submission(tmp_path, TASKS["sst2"], "test", [0], [0])
    assert path.read_text() == "index\tprediction\n0\t1\n"
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_submitted(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="RTE test: the index 4 is there 2 times"):
        write_submission(tmp_path, TASKS["rte"], "test", [0, 1, 1], [4, 3, 4])
    with pytest.raises(RunFailed, match="1 of 2 predictions are not finite"):
        write_submission(tmp_path, TASKS["stsb"], "test", [float("nan"), 1.0], [0, 1])
    with pytest.raises(ValueError, match=r"shape \(2,\) for indices of \(1,\)"):
        write_submission(tmp_path, TASKS["rte"], "test", [0, 1], [0])
    assert list(tmp_path.iterdir()) == []


def test_an_incomplete_file_is_announced() -> None:
    assert incomplete(TASKS["rte"], "test", 3000) is None
    sentence = "MNLI-mm.tsv has 100 rows; GLUE's server takes it with all 9,847 only"
    assert incomplete(TASKS["mnli"], "test_mismatched", 100) == sentence


def test_an_answer_does_not_depend_on_the_rows_beside_it(
    tmp_path: Path, glue_folder: Path, chat_tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rotary frequencies that go by the length of a sequence are those of training."""
    texts = ["The cat sat.", "Nobody knew the way home.", "The " + "very " * 15 + "old man went down to the water."]
    rows = [{"sentence1": text, "sentence2": "He ran.", "label": -1, "idx": at} for at, text in enumerate(texts)]
    (glue_folder / "stsb/test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    kind, dimensions = DECODERS["phi3-long"]
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **dimensions, num_labels=1)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    tokenizer, found = AutoTokenizer.from_pretrained(chat_tokenizer), list[Any]()

    def loaded_anew(*_: Any) -> Any:
        return SimpleNamespace(model=deepcopy(model), tokenizer=tokenizer, origin="a run")

    monkeypatch.setattr(submission, "load_run_model", loaded_anew)
    monkeypatch.setattr(submission, "write_submission", lambda *given: found.append(given[3]))
    standing: Any = SimpleNamespace(task=TASKS["stsb"], label="full")
    for together in (1, 3):
        where = [f"data.path={glue_folder}", "data.task=stsb", "data.max_length=120", "train.device=cpu"]
        loaded = load_recipe("roberta-glue", [*where, f"eval.micro_batch_size={together}"])
        run: Any = SimpleNamespace(trial=SimpleNamespace(loaded=loaded, recipe=loaded.recipe, folder="run"))
        list(submission._predicted(standing, run, tmp_path, str))
    assert np.ptp(found[0]) > 0.1
    np.testing.assert_allclose(found[0], found[1], rtol=1e-3, atol=1e-4)
