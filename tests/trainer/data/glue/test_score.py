"""Losses and scores of a task: those of transformers and scikit-learn, however the examples are cut into batches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import architectures
import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from galore.trainer.build import build_model
from galore.trainer.data.glue.labelled import LabelledData
from galore.trainer.data.glue.prepare import encode, read_rows
from galore.trainer.data.glue.score import TaskResult, predict, score_task
from galore.trainer.data.prepare import read_data
from galore.trainer.data.score import batch_loss
from galore.trainer.evaluate import score_held_out
from galore.trainer.models.classifier import pad_with
from galore.trainer.models.head import split_head
from galore.trainer.recipe.load import load_recipe
from galore.trainer.step import Counts, accumulate, count_targets
from galore.trainer.tasks.glue import TASKS

XLNET = {"vocab_size": 260, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64, "pad_token_id": 3}


def parts(model: Path, data: Path, task: str) -> tuple[torch.nn.Module, LabelledData]:
    where = [f"model.name_or_path={model}", f"data.path={data}", f"data.task={task}", "data.max_length=32"]
    recipe = load_recipe("roberta-glue", where).recipe
    network, _ = build_model(recipe, 20, "cpu", Path())
    found = read_data(recipe, Path())
    assert isinstance(found, LabelledData)
    return network.eval(), found


@pytest.mark.parametrize("task", ["rte", "stsb"])
def test_gradients_are_those_of_transformers_however_the_batch_is_cut(
    tiny_roberta: Path, glue_folder: Path, task: str
) -> None:
    model, data = parts(tiny_roberta, glue_folder, task)
    batch = data.global_batch(0)
    fed = batch.inputs(model)
    theirs = model(**fed, labels=batch.labels).loss
    theirs.backward()
    wanted = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    for size in (16, 4, 3, 1):
        model.zero_grad()
        loss, *_ = accumulate(model, batch, size, Counts(count_targets(batch)))
        assert loss == pytest.approx(theirs.item(), rel=1e-5)
        found = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("size", [1, 7, 24])
def test_predictions_are_in_the_order_of_the_rows(tiny_roberta: Path, glue_folder: Path, size: int) -> None:
    model, data = parts(tiny_roberta, glue_folder, "sst2")
    examples = data.held_out["validation"]
    recipe = load_recipe("roberta-glue", [f"data.path={glue_folder}", "data.task=sst2"]).recipe
    tokenizer = AutoTokenizer.from_pretrained(tiny_roberta)
    texts = [row.text_a for row in read_rows(recipe, "validation", Path())]
    with torch.no_grad():
        alone = [int(model(**tokenizer(text, return_tensors="pt")).logits.argmax()) for text in texts]
    model.train()
    found = predict(model, examples, size)
    assert model.training  # and dropout was off meanwhile
    assert found.predictions.tolist() == alone
    result = score_task(model, TASKS["sst2"], data.held_out, size)
    assert result.headline == pytest.approx(accuracy_score(examples.labels, alone))
    total = sum(batch_loss(model.eval(), split_head, batch)[0] for batch in [examples.batch(np.arange(24))])
    assert result.loss == pytest.approx(total / 24, rel=1e-5)


def test_mnli_has_two_scores(tiny_roberta: Path, glue_folder: Path) -> None:
    model, data = parts(tiny_roberta, glue_folder, "mnli")
    where = ["data.task=mnli", f"data.path={glue_folder}"]
    result = score_held_out(model, data, load_recipe("roberta-glue", where).recipe)
    assert isinstance(result, TaskResult)
    assert list(result.final()) == ["task", "accuracy", "accuracy_mismatched"]
    assert list(data.baseline()["baseline"]) == ["validation_matched", "validation_mismatched"]


def test_a_collapse_is_told(tiny_roberta: Path, glue_folder: Path) -> None:
    model, data = parts(tiny_roberta, glue_folder, "sst2")
    with torch.no_grad():
        model.get_parameter("classifier.out_proj.bias").copy_(torch.tensor([9.0, -9.0]))
    result = score_task(model, TASKS["sst2"], data.held_out, 8)
    assert result.collapsed is not None
    assert "`negative` for 100.0%" in result.collapsed
    assert result.headline == data.baseline()["baseline"]["validation"]["accuracy"]


# convbert's convolutions see what rows are filled up with
@pytest.mark.parametrize("name", [*sorted({*architectures.CLASSIFIERS} - {"convbert"}), "xlnet"])
def test_a_score_does_not_depend_on_the_rows_beside_it(name: str, chat_tokenizer: Path, glue_folder: Path) -> None:
    """Also where generation pads on the left: positions, and the token that is read, are those of the row alone."""
    tokenizer = AutoTokenizer.from_pretrained(chat_tokenizer, padding_side="left")
    where = [f"data.path={glue_folder}", "data.task=sst2"]
    examples = encode(read_rows(load_recipe("roberta-glue", where).recipe, "train", Path()), 6, tokenizer, 60)
    kind, dimensions = architectures.CLASSIFIERS.get(name, ("xlnet", XLNET))
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **dimensions, num_labels=1)
    model = AutoModelForSequenceClassification.from_config(pad_with(config, tokenizer.pad_token_id)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    scored = replace(examples, labels=examples.labels.astype(np.float32))
    alone, together = (predict(model, scored, size).predictions for size in (1, 6))
    assert np.ptp(alone) > 1e-3
    np.testing.assert_allclose(together, alone, rtol=1e-3, atol=1e-4)
