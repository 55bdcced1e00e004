"""GaLore inside TRL's trainers: supervised, DPO, ORPO, KTO. TRL is no dependency; where it is absent these skip."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from galore.integrations.hf import GaLoreTrainerMixin

pytestmark = pytest.mark.slow
WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
PAIR = {"prompt": "one two", "chosen": " three four", "rejected": " nine eight"}
CASES = {
    "SFT": ("trl", {"text": "one two three four five"}),
    "DPO": ("trl", PAIR),
    "KTO": ("trl", PAIR),
    "ORPO": ("trl.experimental.orpo", PAIR),
}


def tokenizer() -> PreTrainedTokenizerFast:
    words = {word: index for index, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", *WORDS])}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )


def single(pair: dict[str, str], number: int) -> dict[str, Any]:
    """One side of a pair with its label, as KTO takes them: both kinds in turn."""
    good = bool(number % 2)
    return {"prompt": pair["prompt"], "completion": pair["chosen" if good else "rejected"], "label": good}


@pytest.mark.parametrize("kind", CASES)
@pytest.mark.filterwarnings("ignore")
def test_it_trains_clips_and_logs(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trl", reason="trl is not installed")
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    from datasets import Dataset

    home, row = CASES[kind]
    module: Any = importlib.import_module(home)
    trainer_class, config = getattr(module, f"{kind}Trainer"), getattr(module, f"{kind}Config")
    settings: dict[str, Any] = {
        "output_dir": str(tmp_path), "max_steps": 3, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2,
        "learning_rate": 1e-2, "logging_steps": 1, "report_to": "none", "use_cpu": True, "bf16": False, "max_grad_norm": 1e-3,
        "disable_tqdm": True, "save_strategy": "no", "max_length": 32,
    }  # fmt: skip
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=14, pad_token_id=0, **sizes)).save_pretrained(tmp_path / "model")
    # a folder: DPO and KTO load what they compare with from where the model is from
    model = LlamaForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    galore_trainer = type("GaLoreTrainer", (GaLoreTrainerMixin, trainer_class), {})
    data = Dataset.from_list([single(row, n) if kind == "KTO" else row for n in range(16)])
    trainer = galore_trainer(
        model=model, args=config(**settings), train_dataset=data, processing_class=tokenizer(), galore={"rank": 4}
    )
    before = model.model.layers[0].mlp.up_proj.weight.detach().clone()
    trainer.train()
    norms = [entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry]
    assert len(norms) == 3
    assert min(norms) > 1e-3
    assert trainer.galore_optimizer.report.grad_scale == pytest.approx(1e-3 / norms[-1], rel=1e-3)
    assert not torch.equal(before, model.model.layers[0].mlp.up_proj.weight)
