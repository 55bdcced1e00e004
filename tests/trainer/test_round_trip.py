"""The model that was trained is the model that is evaluated, generates, is exported and read by transformers: any architecture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import architectures
import numpy as np
import pytest
import torch
from kinds import TWENTY
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedTokenizerFast

from galore.trainer.build import build_model
from galore.trainer.checkpoint import checkpoint
from galore.trainer.checkpoint.state import capture, load_model, model_tensors, random_state, restore
from galore.trainer.data.rows.labelled import LabelledBatch, full_batch
from galore.trainer.data.rows.tokenbatch import TokenBatch
from galore.trainer.data.score import batch_loss, scoring
from galore.trainer.models.classifier import head_modules, label_order
from galore.trainer.models.head import split_head
from galore.trainer.optimizer import attach_optimizer
from galore.trainer.recipe.dump import dump_recipe
from galore.trainer.recipe.schema.recipe import Recipe
from galore.trainer.record.rundir import RunDir
from galore.trainer.step import train_step
from galore.trainer.tasks.glue import TASKS
from galore.trainer.trained.export import export
from galore.trainer.trained.runmodel import load_run_model, save_model_files

METHODS: dict[str, dict[str, Any]] = {
    "full": {"method": "full"},
    "galore": {"method": "galore", "update_proj_gap": 2},
    "lora": {"method": "lora"},
    "drawn": {"method": "full"},  # from random weights, which no library loads
}
SAMPLE = (
    ("llama", "galore"),
    ("llama-tied", "lora"),
    ("gemma", "full"),
    ("gemma3", "galore"),
    ("qwen2", "lora"),
    ("gpt2", "galore"),
    ("phi", "full"),
    ("gemma3", "drawn"),
    ("gptj", "lora"),
    ("mixtral", "galore"),
    ("phimoe", "lora"),
    ("opt", "galore"),
    ("retnet", "galore"),
)
UNDRAWN = (("openai-gpt", "drawn"), ("apertus", "drawn"))


@pytest.mark.parametrize(("name", "method"), SAMPLE)
def test_a_decoder_stays_the_same(name: str, method: str, tmp_path: Path) -> None:
    decoder_round_trip(name, method, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", architectures.DECODERS)
def test_every_decoder_stays_the_same(name: str, method: str, tmp_path: Path) -> None:
    if (name, method) in UNDRAWN:
        pytest.skip("transformers does not draw all of its weights: refused")
    decoder_round_trip(name, method, tmp_path)


@pytest.mark.parametrize("name", ["qwen3-next", "mamba2", "retnet", "mixtral"])
def test_ten_steps_go_on_as_if_nothing_had_been(name: str, tmp_path: Path) -> None:
    goes_on(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [row.name for row in TWENTY])
def test_ten_steps_of_every_kind_go_on_as_if_nothing_had_been(name: str, tmp_path: Path) -> None:
    goes_on(name, tmp_path)


@pytest.mark.parametrize(("name", "method"), [("roberta", "galore"), ("llama", "lora"), ("gemma", "full")])
def test_a_classifier_stays_the_same(name: str, method: str, tmp_path: Path) -> None:
    classifier_round_trip(name, method, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", architectures.CLASSIFIERS)
def test_every_classifier_stays_the_same(name: str, method: str, tmp_path: Path) -> None:
    classifier_round_trip(name, method, tmp_path)


@pytest.mark.parametrize(
    ("name", "targets", "said"),
    [("phimoe", ["layers"], "PhimoeTopKRouter"), ("mixtral", ["self_attn"], "0.001 times its auxiliary loss")],
)
def test_what_is_left_alone_or_left_out_is_said(name: str, targets: list[str], said: str, tmp_path: Path) -> None:
    settings = recipe(tmp_path, architectures.decoder(name), "lora", {"data": {"path": "none.txt", "source": "local"}})
    settings = settings.model_copy(update={"optim": settings.optim.model_copy(update={"target_modules": targets})})
    _, lines = build_model(settings, architectures.VOCABULARY, "cpu", tmp_path)
    assert said in " ".join(lines)


@pytest.mark.slow
@pytest.mark.parametrize("name", architectures.CLASSIFIERS)
def test_every_head_is_put_into_the_order_of_the_task(name: str, tmp_path: Path) -> None:
    head_is_reordered(name, tmp_path)


def test_a_head_is_put_into_the_order_of_the_task(tmp_path: Path) -> None:
    head_is_reordered("roberta", tmp_path)


def decoder_round_trip(name: str, method: str, folder: Path) -> None:
    model = architectures.decoder(name)
    settings = recipe(folder, model, method, {"data": {"path": "none.txt", "source": "local"}})
    held_out = tokens(9)
    model, own = trained(settings, folder, [tokens(seed) for seed in (1, 2)], held_out)
    read = load_run_model(str(folder / "run"))
    assert loss(read.model, held_out) == pytest.approx(own, abs=1e-4)
    exported = export(str(folder / "run"), folder / "out").folder
    plain = AutoModelForCausalLM.from_pretrained(exported, use_safetensors=True).eval()
    assert loss(plain, held_out) == pytest.approx(own, abs=1e-4)
    assert loss(load_run_model(str(exported)).model, held_out) == pytest.approx(own, abs=1e-4)
    prompt = torch.tensor([[5, 6, 7, 8]])
    texts = [each.generate(prompt, max_new_tokens=3, do_sample=False).tolist() for each in (read.model, plain)]
    assert texts[0] == texts[1]


def goes_on(name: str, folder: Path) -> None:
    """Ten steps at once, and six, a checkpoint, and four in another model and optimizer: the same bits."""
    row = next(each for each in TWENTY if each.name == name)
    settings = recipe(folder, architectures.decoder(name), "galore", {"data": {"path": "none.txt", "source": "local"}})
    optim = settings.optim.model_copy(update={"target_modules": row.targets, "weight_decay": 0.1, "warmup_ratio": 0.0})
    settings = settings.model_copy(update={"optim": optim})
    torch.manual_seed(0)
    whole, losses = steps(settings, folder, range(10))
    first, _ = steps(settings, folder, range(6), folder / "checkpoints")
    torch.manual_seed(1)  # another process's
    second, more = steps(settings, folder, range(6, 10), folder / "checkpoints")
    assert more == losses[6:]
    assert losses[-1] < losses[0]
    for one, other in ((whole, second), (first, second)):
        same = [torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True)]
        assert all(same) is (one is whole)


def steps(settings: Recipe, folder: Path, which: range, kept: Path | None = None) -> tuple[nn.Module, list[float]]:
    """The model after steps `which` on one batch, from the checkpoint in `kept` where they are not the first, and the
    loss of each; what ends before the tenth is saved there."""
    model, _ = build_model(settings, architectures.VOCABULARY, "cpu", folder)
    optimizer = attach_optimizer(model, settings, 1)
    if which.start:
        assert kept is not None
        found, _ = checkpoint.newest_verified(kept)
        assert found is not None
        restore(found, model, optimizer)
    losses = [train_step(model, optimizer, tokens(1), 4, 1.0).loss_nats for _ in which]
    if which.stop < 10:
        assert kept is not None
        checkpoint.save(kept, which.stop, *capture(model, optimizer, random_state()), keep=2)
    optimizer.release()
    return model, losses


def classifier_round_trip(name: str, method: str, folder: Path) -> None:
    model = architectures.classifier(name, 3)
    settings = recipe(folder, model, method, {"data": {"path": "none", "source": "glue", "task": "mnli"}})
    held_out = labelled(9)
    model, own = trained(settings, folder, [labelled(seed) for seed in (1, 2)], held_out)
    assert loss(load_run_model(str(folder / "run")).model, held_out) == pytest.approx(own, abs=1e-4)
    exported = export(str(folder / "run"), folder / "out").folder
    plain = AutoModelForSequenceClassification.from_pretrained(exported, use_safetensors=True).eval()
    assert loss(plain, held_out) == pytest.approx(own, abs=1e-4)
    assert tuple(plain.config.id2label.values()) == TASKS["mnli"].labels


def head_is_reordered(name: str, folder: Path) -> None:
    """A head whose outputs are named in another order answers as before, by name."""
    model = architectures.classifier(name, 3).eval()
    names = ("Contradiction", "ENTAILMENT", "neutral")
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {label: number for number, label in enumerate(names)}
    settings = recipe(folder, model, "full", {"data": {"path": "none", "source": "glue", "task": "mnli"}})
    batch = labelled(3)
    with torch.no_grad():
        theirs = model(**batch.inputs(model)).logits
        ours, _ = build_model(settings, architectures.VOCABULARY, "cpu", folder)
        order = [1, 2, 0]  # where they have entailment, neutral, contradiction
        torch.testing.assert_close(ours.eval()(**batch.inputs(ours)).logits, theirs[:, order])
    assert label_order(ours.config, TASKS["mnli"], "") == [0, 1, 2]


def recipe(folder: Path, model: nn.Module, method: str, more: dict[str, Any]) -> Recipe:
    """Trains the stored `model`, all of its linear layers; keeps it and a tokenizer in `folder`."""
    network: Any = model
    network.save_pretrained(folder / "start")
    optim = METHODS[method] | {"rank": 4, "learning_rate": 0.01, "target_modules": targets(network, method)}
    attention = "sdpa" if network._supports_sdpa else "eager"
    settings = {
        "model": {
            "name_or_path": str(folder / "start"),
            "dtype": "float32",
            "attn_implementation": attention,
            "random_init": method == "drawn",
        },
        "optim": optim,
        "train": {"max_steps": 2, "global_batch_size": 4, "micro_batch_size": 4},
    }
    more["data"] |= {"max_length": 16}
    return Recipe.model_validate(settings | more)


def targets(model: nn.Module, method: str) -> list[str]:
    """Parts of the paths of all that can be adapted, or projected: not the head that classifies, nor what peft refuses."""
    head = tuple(f"{name}." for name in head_modules(model))
    found = [name for name in architectures.linear_names(model) if not f"{name}.".startswith(head or "-")]
    if method != "lora":
        found += [
            name.removesuffix(".weight") for name, each in model.named_parameters() if each.ndim == 2 and ".c_" in name
        ]
    elif any("mamba" in name for name, _ in model.named_modules()) or "mamba" in model.config.model_type:
        found = [name for name in found if not name.endswith("out_proj")]
    if not found:
        pytest.skip("has no linear layer")
    return sorted({".".join(name.split(".")[-2:]) for name in found})


def trained(settings: Recipe, folder: Path, batches: list[Any], held_out: Any) -> tuple[nn.Module, float]:
    """Two steps, saved as a run in `folder`; the model in training form, and its own held-out loss."""
    torch.manual_seed(0)
    model, _ = build_model(settings, architectures.VOCABULARY, "cpu", folder)
    optimizer = attach_optimizer(model, settings, 1)
    run = RunDir.create(folder / "run", resume=False)
    run.recipe.write_text(dump_recipe(settings))
    save_model_files(model, byte_tokenizer(), run)
    for batch in batches:
        train_step(model, optimizer, batch, 4, 1.0)
    own = loss(model, held_out)
    assert np.isfinite(own)
    checkpoint.save(run.checkpoints, 2, {"model": model_tensors(model)}, {}, keep=2)
    found, _ = checkpoint.newest_verified(run.checkpoints)
    assert found is not None
    load_model(model, found.load("model"))  # as a resumed run does
    assert loss(model, held_out) == own
    optimizer.release()
    return model, own


def loss(model: nn.Module, batch: Any) -> float:
    with scoring(model):
        total, targets = batch_loss(model, split_head, batch)
    return total / targets


def tokens(seed: int) -> TokenBatch:
    ids = torch.randint(5, 250, (4, 16), generator=torch.Generator().manual_seed(seed))
    return TokenBatch(ids, ids.clone(), tuple(range(4)))


def labelled(seed: int) -> LabelledBatch:
    ids = torch.randint(5, 250, (4, 8), generator=torch.Generator().manual_seed(seed))
    return replace(full_batch(ids.numpy(), np.int64), labels=torch.tensor([0, 1, 2, 0]))


def byte_tokenizer() -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: index for index, letter in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>", pad_token="<|endoftext|>")
