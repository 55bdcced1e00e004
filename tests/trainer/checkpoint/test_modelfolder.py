"""A checkpoint read as a model folder, by transformers and by readers that take every file of weights."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from galore.trainer.checkpoint import checkpoint, modelfolder
from galore.trainer.checkpoint.rotation import discard
from galore.trainer.checkpoint.state import model_tensors

SIZES: dict[str, Any] = {
    "tie_word_embeddings": True,
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
OPTIMIZER = {"optimizer": {"exp_avg": torch.zeros(3)}}


@pytest.fixture
def beside(tmp_path: Path) -> list[Path]:
    """Configuration and tokenizer as a run has them beside its checkpoints."""
    folders = [tmp_path / "run" / name for name in ("model", "tokenizer")]
    for folder in folders:
        folder.mkdir(parents=True)
    LlamaConfig(**SIZES, architectures=["LlamaForCausalLM"]).save_pretrained(folders[0])
    (folders[1] / "tokenizer.json").write_text("{}")
    (folders[1] / "additional_chat_templates").mkdir()
    (folders[1] / "additional_chat_templates" / "tools.jinja").write_text("x")
    return folders


def saved(beside: list[Path]) -> tuple[LlamaForCausalLM, Path]:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES))
    root = beside[0].parent / "checkpoints"
    tensors = {"model": model_tensors(model), **OPTIMIZER}
    return model, checkpoint.save(root, 3, tensors, {"tokens": 1}, keep=2, beside=beside)


@pytest.mark.parametrize("links", [True, False])
def test_transformers_reads_a_checkpoint_as_it_lies_and_elsewhere(
    beside: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:
        monkeypatch.setattr(Path, "symlink_to", refuse)
    model, folder = saved(beside)
    assert (folder / "config.json").is_symlink() == links
    names = {"config.json", "tokenizer.json", "additional_chat_templates"}
    assert {path.name for path in folder.iterdir()} - names == {
        "model.safetensors", "model.safetensors.index.json", "optimizer.safetensors", "state.json", "manifest.json"
    }  # fmt: skip
    (tmp_path / "run").rename(tmp_path / "moved")
    moved = tmp_path / "moved" / folder.relative_to(tmp_path / "run")
    assert (moved / "additional_chat_templates" / "tools.jinja").read_text() == "x"
    read: Any = AutoModelForCausalLM.from_pretrained(moved)
    ids = torch.arange(8)[None]
    assert torch.equal(read(ids).logits, model(ids).logits)


@pytest.mark.parametrize("linked", ["checkpoints", "model", "run"])
def test_links_lead_home_where_a_folder_above_them_is_itself_a_link(
    beside: list[Path], tmp_path: Path, linked: str
) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir()
    moved, elsewhere = run if linked == "run" else run / linked, tmp_path / "another" / "disk" / "deep"
    elsewhere.parent.mkdir(parents=True)
    moved.rename(elsewhere)
    moved.symlink_to(elsewhere)
    _, folder = saved(beside)
    assert (folder / "config.json").samefile(run / "model" / "config.json")
    assert all(path.exists() for path in folder.iterdir())
    inside = (folder / "config.json").readlink() == Path("../../model/config.json")
    assert inside == (linked != "checkpoints")


def refuse(*_: Any) -> None:
    raise PermissionError(1, "Operation not permitted")


def test_the_index_names_the_weights_and_nothing_of_the_optimizer(beside: list[Path]) -> None:
    model, folder = saved(beside)
    known = json.loads((folder / modelfolder.INDEX).read_text())
    assert set(known["weight_map"].values()) == {"model.safetensors"}
    assert known["weight_map"].keys() == model_tensors(model).keys()
    assert known["metadata"]["total_size"] == sum(each.numel() * 4 for each in model_tensors(model).values())


def test_a_checkpoint_is_verified_without_its_links_and_deleted_without_what_they_lead_to(beside: list[Path]) -> None:
    _, folder = saved(beside)
    (folder / "config.json").unlink()
    found, skipped = checkpoint.newest_verified(folder.parent)
    assert found is not None
    assert (found.groups, skipped) == (("model", "optimizer"), [])
    assert checkpoint.verified(folder.parent, 3).state == {"tokens": 1}
    discard(folder)
    assert not os.path.lexists(folder)
    assert sorted(path.name for path in beside[1].iterdir()) == ["additional_chat_templates", "tokenizer.json"]


def test_without_folders_beside_it_a_checkpoint_is_none(tmp_path: Path) -> None:
    folder = checkpoint.save(tmp_path, 1, {"model": {"w": torch.zeros(2)}}, {}, keep=2)
    assert {path.name for path in folder.iterdir()} == {"model.safetensors", "state.json", "manifest.json"}
