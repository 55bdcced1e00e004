"""A task through the whole of it: train, evaluate by epochs, break off, go on, score again, export, predict memory."""

from __future__ import annotations

import gc
import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from consoles import Quiet
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    Qwen2Config,
    Qwen2ForCausalLM,
    RobertaConfig,
    pipeline,
)

from galore.trainer import build as build_module
from galore.trainer import loop
from galore.trainer.checkpoint import exported
from galore.trainer.checkpoint.checkpoint import newest_verified
from galore.trainer.common.errors import UserError
from galore.trainer.common.format import size
from galore.trainer.data.glue.score import TaskResult
from galore.trainer.fit.compare import compare
from galore.trainer.fit.predict import profile_on
from galore.trainer.machine.cards import card
from galore.trainer.models.generate import sample
from galore.trainer.parameters import dry_run
from galore.trainer.recipe.load import LoadedRecipe, load_recipe
from galore.trainer.record.metrics import read_rows
from galore.trainer.record.rundir import RunDir
from galore.trainer.run import run_training
from galore.trainer.trained.evaluation import evaluate_stored
from galore.trainer.trained.export import export
from galore.trainer.trained.runmodel import load_run_model

pytestmark = pytest.mark.usefixtures("undrawn")
ROOT = Path(__file__).parents[2]
METHODS = ["roberta-glue-galore-r4", "roberta-glue-lora-r8", "roberta-glue-full"]


@pytest.fixture
def asked(tiny_roberta: Path, glue_folder: Path) -> Any:
    def load(name: str, task: str, *more: str) -> LoadedRecipe:
        where = [f"model.name_or_path={tiny_roberta}", f"data.path={glue_folder}", f"data.task={task}"]
        small = [
            "data.max_length=32",
            "train.num_train_epochs=3",
            "train.global_batch_size=8",
            "train.micro_batch_size=4",
        ]
        return load_recipe(name, [*where, *small, "optim.learning_rate=0.01", "optim.update_proj_gap=3", *more])

    return load


def rows(root: Path, kind: str) -> list[dict[str, Any]]:
    return [row for row in read_rows(RunDir(root).metrics) if row["kind"] == kind]


@pytest.mark.parametrize("name", METHODS)
def test_a_run_learns_and_its_export_answers(asked: Any, tmp_path: Path, name: str) -> None:
    console = Quiet()
    run_training(asked(name, "sst2", "train.num_train_epochs=8"), tmp_path / "run", False, console)
    scored = rows(tmp_path / "run", "eval")
    assert [row["step"] for row in scored] == [3 * epoch for epoch in range(1, 9)]
    assert scored[-1]["scores"]["validation"]["accuracy"] >= 0.95  # one word tells
    again = evaluate_stored(str(tmp_path / "run")).result
    assert isinstance(again, TaskResult)
    assert again.row() == {key: scored[-1][key] for key in again.row()} | {"loss_nats": again.loss}
    assert again.loss == pytest.approx(scored[-1]["loss_nats"], rel=1e-5)  # adapters are merged by now
    written = export(str(tmp_path / "run"), tmp_path / "out")
    assert written.loads == "AutoModelForSequenceClassification"
    answers = pipeline("text-classification", model=str(tmp_path / "out"))(["the film was good", "the film was bad"])
    assert [answer["label"] for answer in answers] == ["positive", "negative"]
    exported = evaluate_stored(str(tmp_path / "out"), asked(name, "sst2")).result
    assert exported.row()["scores"] == again.row()["scores"]
    swap_outputs(tmp_path / "out")
    swapped = evaluate_stored(str(tmp_path / "out"), asked(name, "sst2")).result
    assert swapped.row()["scores"] == again.row()["scores"]
    report = (tmp_path / "run/report.md").read_text()
    assert "the majority label reaches 0.5000" in report
    assert "| step | accuracy | time |" in report
    facts = RunDir(tmp_path / "run").read_facts()
    assert facts["final"]["accuracy"] == scored[-1]["scores"]["validation"]["accuracy"]
    assert facts["baseline"] == {"validation": {"accuracy": 0.5}}
    assert "text-classification" in (tmp_path / "out/README.md").read_text()


def test_a_decoder_is_padded_with_what_its_rows_are(asked: Any, tmp_path: Path, tiny_roberta: Path) -> None:
    """In the run, its export, and wherever somebody else's configuration says nothing of padding."""
    tokenizer, stored = AutoTokenizer.from_pretrained(tiny_roberta), tmp_path / "stored"
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    Qwen2ForCausalLM(
        Qwen2Config(vocab_size=len(tokenizer), eos_token_id=3, num_key_value_heads=4, **shape)
    ).save_pretrained(stored)
    tokenizer.save_pretrained(stored)
    more = [f"model.name_or_path={stored}", "train.num_train_epochs=1", "optim.target_modules=[self_attn,mlp]"]
    loaded = asked("roberta-glue-full", "sst2", *more)
    run_training(loaded, tmp_path / "run", False, Quiet())
    export(str(tmp_path / "run"), tmp_path / "out")
    file = tmp_path / "out/config.json"
    config = json.loads(file.read_text())
    assert config["pad_token_id"] == tokenizer.pad_token_id != 3
    file.write_text(json.dumps(config | {"pad_token_id": None}))
    (tmp_path / "out" / exported.MANIFEST).unlink()
    results = [evaluate_stored(str(tmp_path / "run")).result, evaluate_stored(str(tmp_path / "out"), loaded).result]
    assert results[0].loss == pytest.approx(rows(tmp_path / "run", "eval")[-1]["loss_nats"], rel=1e-5)
    assert results[1].loss == pytest.approx(results[0].loss, rel=1e-5)
    export(str(tmp_path / "out"), tmp_path / "again")
    assert json.loads((tmp_path / "again/config.json").read_text())["pad_token_id"] == tokenizer.pad_token_id


def swap_outputs(folder: Path) -> None:
    """The same classifier with its two outputs in the other order, and its configuration saying so."""
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    for tensor in model.classifier.out_proj.parameters():
        tensor.data = tensor.data.flip(0)
    model.config.id2label, model.config.label2id = {0: "POSITIVE", 1: "NEGATIVE"}, {"POSITIVE": 0, "NEGATIVE": 1}
    model.save_pretrained(folder)
    (folder / exported.MANIFEST).unlink()  # it is somebody else's folder now


def test_scores_are_squared_errors_in_name_and_plot(
    asked: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # drawn after all
    root = tmp_path / "run"
    run_training(asked(METHODS[0], "stsb"), root, False, Quiet())
    row = rows(root, "train")[0]
    assert row["squared_error"] > 1
    assert row["perplexity"] is None
    assert "loss_nats" not in row
    assert set(rows(root, "eval")[-1]["scores"]["validation"]) == {"pearson", "spearman"}
    assert (root / "plots/loss.png").stat().st_size > 5_000
    assert (root / "plots/scores.png").stat().st_size > 5_000


@pytest.mark.parametrize("name", METHODS)
def test_what_broke_off_goes_on_bit_for_bit(
    asked: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    loaded = asked(name, "rte", "train.save_steps=2")
    run_training(loaded, tmp_path / "whole", False, Quiet())
    attempt, calls = loop.attempt_step, iter(range(100))

    def breaks(*arguments: Any) -> Any:
        if next(calls) == 5:
            raise KeyboardInterrupt
        return attempt(*arguments)

    monkeypatch.setattr(loop, "attempt_step", breaks)
    with pytest.raises(KeyboardInterrupt):
        run_training(loaded, tmp_path / "broken", False, Quiet())
    run_training(loaded, tmp_path / "broken", True, Quiet())
    ends = [newest_verified(RunDir(tmp_path / each).checkpoints)[0] for each in ("whole", "broken")]
    first, second = (end.load("model") for end in ends if end is not None)
    assert all(torch.equal(first[key], second[key]) for key in first)
    kept = [[row["scores"] for row in rows(tmp_path / each, "eval")] for each in ("whole", "broken")]
    assert kept[0] == kept[1]


def test_what_is_cut_is_told(asked: Any, tmp_path: Path) -> None:
    console = Quiet()
    run_training(asked(METHODS[0], "rte", "data.max_length=9"), tmp_path / "run", False, console)
    assert "train: 24 of 24 examples are longer than data.max_length 9 and cut" in console.messages
    assert "24 examples" in console.header["data"]
    assert console.header["batch"] == "8 × up to 9 tokens, 2 micro-batches of 4"


def test_a_gap_longer_than_the_run_is_told(asked: Any, tmp_path: Path) -> None:
    console = Quiet()
    run_training(asked(METHODS[0], "rte", "optim.update_proj_gap=500"), tmp_path / "run", False, console)
    assert "refreshed every 500 steps, and the run has 9" in console.header["note"]


def test_a_classifier_is_not_scored_on_text_or_other_labels(asked: Any, tmp_path: Path) -> None:
    run_training(asked(METHODS[2], "mnli", "train.max_steps=1"), tmp_path / "run", False, Quiet())
    with pytest.raises(UserError, match="is a classifier, and the recipe has text"):
        evaluate_stored(str(tmp_path / "run"), load_recipe("demo"))
    with pytest.raises(UserError, match="tells 3 labels apart, the task rte has 2"):
        evaluate_stored(str(tmp_path / "run"), asked(METHODS[2], "rte"))


@pytest.mark.parametrize("name", METHODS)
def test_memory_is_predicted(asked: Any, name: str) -> None:
    profile = profile_on(asked(name, "mnli"), card("rtx4090"))
    assert profile.fits
    assert profile.peak.categories["weights"] > 0


@pytest.fixture(scope="module")
def roberta_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of roberta-base, which is all that memory is predicted from."""
    folder = tmp_path_factory.mktemp("roberta-base")
    RobertaConfig(vocab_size=50_265, max_position_embeddings=514, type_vocab_size=1).save_pretrained(folder)
    return folder


def held(model: Path, name: str, *more: str) -> tuple[int, int, int]:
    """Bytes of weights, of the optimizer (states and projectors), and parameters of the largest kind."""
    planned = dry_run(load_recipe(name, [f"model.name_or_path={model}", *more])).parameters
    states = sum(row.state_bytes + row.projector_bytes for row in planned)
    return sum(row.weight_bytes for row in planned), states, sum(row.count for row in planned)


def test_galore_of_rank_4_holds_no_more_than_lora_of_rank_4(roberta_base: Path) -> None:
    lora = ["roberta-glue-lora-r8", "optim.rank=4"]
    galore = held(roberta_base, "roberta-glue-galore-r4")
    adapters, full = held(roberta_base, *lora), held(roberta_base, "roberta-glue-full")
    assert galore[1] <= adapters[1]
    assert galore[0] + galore[1] < adapters[0] + adapters[1] < full[0] + full[1]
    peaks = [
        profile_on(load_recipe(name, [*more, f"model.name_or_path={roberta_base}"]), card("rtx4090")).peak.categories
        for name, *more in (["roberta-glue-galore-r4"], lora)
    ]
    states = [sum(each.get(name, 0) for name in ("optimizer_states", "projectors")) for each in peaks]
    assert states[0] <= states[1]


def test_the_documentation_has_these_figures(roberta_base: Path) -> None:
    rank_4 = held(roberta_base, "roberta-glue-galore-r4")
    adapters = held(roberta_base, "roberta-glue-lora-r8", "optim.rank=4")
    full = held(roberta_base, "roberta-glue-full")
    docs, readme = ((ROOT / name).read_text() for name in ("docs/glue.md", "README.md"))
    for label, (weights, states, _) in {"GaLore, rank 4": rank_4, "LoRA, rank 4": adapters, "AdamW": full}.items():
        assert f"| {label} | {size(states)} | {size(weights + states)} |" in docs
    said = f"rank 4 keeps {size(rank_4[1])} of states and projectors for all of roberta-base, LoRA of rank 4 keeps {size(adapters[1])}"
    assert f"{said}, AdamW {size(full[1])}" in " ".join(readme.split())


def test_the_papers_megabytes_in_kind(roberta_base: Path) -> None:
    """Two bytes a number: 747 MB are weights and two moments of all; 257 MB adds adapters and head to the weights; 253 MB
    is the encoder's subspaces, and leaves out the moments of the embeddings, which the official script keeps."""
    weights, states, count = held(roberta_base, "roberta-glue-full")
    assert (weights + states) / 2 == pytest.approx(747e6, rel=0.002)
    encoder = "optim.target_modules=[query,key,value,intermediate.dense,output.dense]"
    as_published = held(roberta_base, "roberta-glue-galore-r4", encoder)
    embeddings = 2 * 4 * 768 * (50_265 + 514)  # moments, fp32
    assert (as_published[0] + as_published[1] - embeddings) / 2 == pytest.approx(253e6, rel=0.01)
    lora = held(roberta_base, "roberta-glue-lora-r8", "optim.rank=4")
    assert (lora[0] + lora[1]) / 2 == pytest.approx(257e6, rel=0.01)
    ours = held(roberta_base, "roberta-glue-galore-r4")
    assert (ours[0] + ours[1]) / 2 < 253.5e6  # with the embeddings in it
    assert count == 124_647_170


def test_methods_are_compared_on_a_task(asked: Any) -> None:
    names = [name for name, profile in compare(asked(METHODS[0], "rte"), card("rtx4090")) if profile is not None]
    assert "AdamW" in names
    assert json.dumps(names)


def test_a_classifier_continues_no_text(asked: Any, tmp_path: Path) -> None:
    run_training(asked(METHODS[2], "rte", "train.max_steps=1"), tmp_path / "run", False, Quiet())
    stored = load_run_model(str(tmp_path / "run"))
    with pytest.raises(UserError, match="is a classifier"):
        sample(stored.model, stored.tokenizer, "the film", 4)


def test_a_folder_of_several_runs_is_none_of_a_model(asked: Any, tmp_path: Path) -> None:
    run_training(asked(METHODS[2], "rte", "train.max_steps=1"), tmp_path / "all/rte/full", False, Quiet())
    with pytest.raises(UserError, match=r"holds several runs: rte/full") as caught:
        load_run_model(str(tmp_path / "all"))
    assert caught.value.fix == f"name one of them: {tmp_path / 'all/rte/full'}"


def test_a_run_lets_go_of_its_model(asked: Any, tmp_path: Path) -> None:
    """Runs follow each other in one process: hooks must not keep the weights of the last one."""
    made: list[weakref.ref[Any]] = []
    built = build_module.attach_optimizer

    def watched(model: Any, *rest: Any) -> Any:
        made.append(weakref.ref(next(model.parameters())))
        return built(model, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build_module, "attach_optimizer", watched)
        run_training(asked(METHODS[0], "rte", "train.max_steps=2"), tmp_path / "run", False, Quiet())
    gc.collect()
    assert [each() for each in made] == [None]
