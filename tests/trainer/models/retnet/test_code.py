"""The code of a RetNet beside its weights: plain transformers loads it where it is told to, galore never does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, dynamic_module_utils

from galore.trainer.common.errors import UserError
from galore.trainer.models.pretrained import load_pretrained, read_config
from galore.trainer.models.retnet.code import code_files
from galore.trainer.models.retnet.configuration_retnet import RetNetConfig
from galore.trainer.models.retnet.modeling_retnet import RetNetForCausalLM
from galore.trainer.trained.modelcard import model_card
from galore.trainer.trained.modelfile import modelfile

CONFIG = RetNetConfig(
    vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, chunk_size=4
)
IDS = [[5, 6, 7, 8, 9, 10, 11]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    folder = tmp_path / "retnet"
    RetNetForCausalLM(CONFIG).save_pretrained(folder)
    for name, source in code_files(CONFIG):
        (folder / name).write_text(source)
    return folder


def logits_of(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model.eval()(torch.tensor(IDS), use_cache=False).logits
    return logits


def test_the_code_in_the_folder_is_the_same_model(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    found = dynamic_module_utils.get_class_from_dynamic_module("modeling_retnet.RetNetForCausalLM", str(folder))
    assert found.__module__.startswith("transformers_modules")
    used = vars(sys.modules[found.__module__])
    assert {used[name].__module__.partition(".")[0] for name in ("retention", "RetNetConfig")} == {
        "transformers_modules"
    }
    config = found.config_class.from_pretrained(folder)
    own = load_pretrained(
        str(folder), read_config(str(folder), None), revision=None, dtype=torch.float32, attn_implementation=None
    )
    assert torch.equal(logits_of(found.from_pretrained(folder, config=config)), logits_of(own))


def test_galore_runs_its_own_code_whatever_the_folder_brings(folder: Path) -> None:
    (folder / "modeling_retnet.py").write_text("raise SystemExit('was run')")
    (folder / "configuration_retnet.py").write_text("raise SystemExit('was run')")
    config = read_config(str(folder), None)
    assert type(config) is RetNetConfig
    assert type(AutoConfig.from_pretrained(folder)) is RetNetConfig
    model = load_pretrained(str(folder), config, revision=None, dtype=torch.float32, attn_implementation=None)
    assert type(model) is RetNetForCausalLM
    assert type(AutoModelForCausalLM.from_config(config)) is RetNetForCausalLM


def test_other_models_bring_no_code() -> None:
    assert not dict(code_files(LlamaConfig()))
    assert sorted(dict(code_files(CONFIG))) == ["configuration_retnet.py", "modeling_retnet.py", "retention.py"]


@pytest.mark.parametrize(
    ("config", "said"), [(CONFIG, 'folder", trust_remote_code=True)'), (LlamaConfig(), 'folder")')]
)
def test_the_card_says_whether_code_has_to_be_trusted(config: Any, said: str) -> None:
    model = SimpleNamespace(config=config, parameters=lambda: [], dtype=torch.float32)
    card = model_card(SimpleNamespace(model=model, recipe=None, run=None))  # type: ignore[arg-type]
    assert card.count(said) == 2


def test_ollama_is_refused() -> None:
    with pytest.raises(UserError, match="Ollama runs none"):
        modelfile(RetNetForCausalLM(CONFIG), None)  # type: ignore[arg-type]


PLAIN = """
import sys, torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
assert not any(name.split(".")[0] == "galore" for name in sys.modules)
print(model(torch.tensor(eval(sys.argv[2])), use_cache=False).logits.double().sum().item())
print(model.generate(torch.tensor(eval(sys.argv[2])), max_new_tokens=5, do_sample=False).tolist())
"""


@pytest.mark.slow
def test_plain_transformers_loads_it_when_it_is_trusted(folder: Path, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", PLAIN, str(folder), str(IDS)],
        env=environment | {"HF_HOME": str(tmp_path / "hf")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    model = AutoModelForCausalLM.from_pretrained(folder)
    total, generated = done.stdout.splitlines()
    assert float(total) == float(logits_of(model).double().sum())
    assert generated == str(model.generate(torch.tensor(IDS), max_new_tokens=5, do_sample=False).tolist())
