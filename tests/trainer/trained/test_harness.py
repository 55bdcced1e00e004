"""Benchmarks: what the harness is given and what is kept of its answer; and one task of our own in the real one."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from galore.trainer.common.errors import RunFailed, UserError
from galore.trainer.trained import harness
from galore.trainer.trained.harness import Asked, evaluate_tasks
from galore.trainer.trained.runmodel import StoredModel

MODEL: Any = SimpleNamespace(config="default")


class _Harness:
    """Stands in for lm_eval, its tasks and its model class."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.included, self.given, self.asked = error, "", dict[str, Any](), dict[str, Any]()

    def TaskManager(self, include_path: str | None) -> Any:  # noqa: N802
        self.included = include_path
        return SimpleNamespace(all_tasks=["hellaswag", "arc_easy"])

    def HFLM(self, **given: Any) -> str:  # noqa: N802
        self.given = given
        return "HFLM"

    def simple_evaluate(self, **asked: Any) -> Any:
        self.asked = asked
        if self.error:
            raise self.error
        scores = {"alias": "hellaswag", "acc,none": 0.25, "acc_stderr,none": 0.1, "exact,strict": 0.5, "x,none": "N/A"}
        return {"results": {"hellaswag": scores}, "versions": {"hellaswag": 1.0}, "n-shot": {"hellaswag": 0}}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> _Harness:
    made: Any = _Harness()
    for name in ("lm_eval", "lm_eval.tasks", "lm_eval.models", "lm_eval.models.huggingface"):
        monkeypatch.setitem(sys.modules, name, made)
    monkeypatch.setattr(harness, "require_generator", lambda model: None)
    monkeypatch.setattr(harness, "follows_length", lambda config: config == "longrope")
    tokenizer: Any = SimpleNamespace(chat_template=None)
    monkeypatch.setattr(
        harness, "load_run_model", lambda path, device, checkpoint: StoredModel(MODEL, tokenizer, "here")
    )  # type: ignore[arg-type]
    return made  # type: ignore[no-any-return]


def test_the_loaded_model_is_handed_over_and_its_scores_are_kept(fake: _Harness, tmp_path: Path) -> None:
    scored = evaluate_tasks("run", Asked(["hellaswag"], limit=7, num_fewshot=2, batch_size=3, include_path=tmp_path))
    assert (fake.given["pretrained"], fake.given["batch_size"], fake.included) == (MODEL, 3, str(tmp_path))
    asked = {name: fake.asked[name] for name in ("model", "tasks", "limit", "num_fewshot", "apply_chat_template")}
    expected = {"model": "HFLM", "tasks": ["hellaswag"], "limit": 7, "num_fewshot": 2, "apply_chat_template": False}
    assert asked == expected
    assert scored.results == {"hellaswag": {"acc": 0.25, "acc_stderr": 0.1, "exact,strict": 0.5}}
    assert (scored.versions, scored.num_fewshot, scored.origin) == ({"hellaswag": 1.0}, {"hellaswag": 0}, "here")


def test_a_model_that_rotates_by_the_length_of_a_batch_is_asked_one_by_one(
    fake: _Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MODEL, "config", "longrope")
    evaluate_tasks("run", Asked(["hellaswag"], batch_size=3))
    assert fake.given["batch_size"] == 1


def test_what_cannot_be_scored_is_told(fake: _Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"helaswag: is no task of lm-eval\n.*did you mean hellaswag"):
        evaluate_tasks("run", Asked(["helaswag"]))
    with pytest.raises(UserError, match=r"has no chat template"):
        evaluate_tasks("run", Asked(["hellaswag"], apply_chat_template=True))
    fake.error = UserError("cannot be read", where="the disk", fix="try again")
    with pytest.raises(UserError, match=r"^the disk: cannot be read\n.*try again"):
        evaluate_tasks("run", Asked(["hellaswag"]))
    fake.error = ConnectionError("no network")
    with pytest.raises(RunFailed, match=r"--tasks: lm-eval failed: ConnectionError: no network\n.*cache of the hub"):
        evaluate_tasks("run", Asked(["hellaswag"]))
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(UserError, match=r"needs the package `lm-eval`.*\n.*galore-llm\[eval\]"):
        evaluate_tasks("run", Asked(["hellaswag"]))


TASK = """
task: letters
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


@pytest.mark.slow
def test_a_task_of_our_own_in_the_real_harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lm_eval", reason="needs the eval extra")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = {word: at for at, word in enumerate(["a", "b", "c", "d", "<end>"])}
    backend = Tokenizer(models.WordLevel(words, unk_token="a"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>").save_pretrained(tmp_path / "model")
    sizes: Any = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=5, max_position_embeddings=32, **sizes))
    for parameter in model.parameters():
        parameter.data.zero_()
    for at in range(4):  # a letter is followed by the next
        model.model.embed_tokens.weight.data[at, at] = 1.0
        model.lm_head.weight.data[at + 1, at] = 10.0
    model.model.norm.weight.data.fill_(1.0)
    model.save_pretrained(tmp_path / "model")
    rows = [
        {"question": q, "choices": ["b", "c", "d"], "answer": a} for q, a in (("a", 0), ("b", 1), ("c", 2), ("c", 0))
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/letters.yaml").write_text(TASK.replace("FILE", str(tmp_path / "rows.jsonl")))
    scored = evaluate_tasks(str(tmp_path / "model"), Asked(["letters"], batch_size=2, include_path=tmp_path / "tasks"))
    assert scored.results["letters"]["acc"] == 0.75
    fewer = evaluate_tasks(str(tmp_path / "model"), Asked(["letters"], limit=3, include_path=tmp_path / "tasks"))
    assert fewer.results["letters"]["acc"] == 1.0
