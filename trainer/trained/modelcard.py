"""The README.md of an exported model: what it is and how it came about, from the run's own records."""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Iterator
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from galore.trainer.evaluate import final_of
from galore.trainer.models.pretrained import kind_of
from galore.trainer.models.retnet.code import brings_code
from galore.trainer.recipe.schema.recipe import Recipe
from galore.trainer.record.metrics import read_rows
from galore.trainer.trained.runmodel import StoredModel

GLUE = "nyu-mll/glue"
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def model_card(stored: StoredModel, name: str = "", license: str = "") -> str:
    """Markdown with the hub's front matter. Says nothing of where the files lay on the machine that trained.

    Args:
        name: of the model; `license`: an identifier of the hub.
    """
    loads = kind_of(stored.model.config).__name__
    classifies = loads != "AutoModelForCausalLM"
    tag = "text-classification" if classifies else "text-generation"
    front = f"---\n{_front(stored, tag, name or 'model', license)}\n---\n"
    taught = " on instructions" if stored.recipe is not None and stored.recipe.data.instruct else ""
    title = f"# A {'classifier' if classifies else 'causal language model'} trained with galore{taught}\n"
    parts = [front, title, _table("Model", _model(stored))]
    if stored.recipe is not None:
        parts.append(_table("Training", _training(stored.recipe, stored.step)))
    if scores := _scores(stored):
        parts.append(_table("Validation" if classifies else "Held-out text", scores))
    trust = f", trust_remote_code={True}" if brings_code(stored.model.config) else ""
    return "\n".join([*parts, _USE.format(loads=loads, trust=trust)])


_USE = """## Use

```python
from transformers import {loads}, AutoTokenizer

model = {loads}.from_pretrained("this folder"{trust})
tokenizer = AutoTokenizer.from_pretrained("this folder"{trust})
```

Read by transformers 5, and by 4.57 where it has the architecture.
"""


def _front(stored: StoredModel, tag: str, name: str, license: str) -> str:
    """YAML that the hub reads: where the model comes from, as far as that is on the hub, and its scores."""
    known: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": tag, "tags": ["galore"]}
    known |= {"license": license} if license else {}
    recipe, scores = stored.recipe, _scores(stored)
    if recipe is not None:
        base = recipe.model.name_or_path
        if base is not None and _on_hub(base) and not recipe.model.random_init:
            known |= {"base_model": base, "base_model_relation": "finetune"}
        known |= {"datasets": _datasets(recipe)} if _datasets(recipe) else {}
    if recipe is not None and (results := list(_results(recipe, scores, tag))):
        known |= {"model_name": name, "eval_results": results}
    return str(ModelCardData(**known).to_yaml())


def _scores(stored: StoredModel) -> dict[str, Any]:
    """What these very weights scored on what was held out; empty where their step was not evaluated."""
    if stored.run is None:
        return {}
    final = stored.run.read_facts().get("final")
    if isinstance(final, dict) and final.get("step") == stored.step:
        return dict(final)
    rows = (row for row in read_rows(stored.run.metrics) if row.get("kind") == "eval" and row["step"] == stored.step)
    last = next(iter(deque(rows, maxlen=1)), None)
    return {} if last is None else {"step": stored.step, **final_of(last)}


def _datasets(recipe: Recipe) -> list[str]:
    """Names of the hub; a file of one's own is nobody else's."""
    if recipe.data.task:
        return [GLUE]
    named = dict.fromkeys(
        part.path for part in recipe.data.parts if part.source == "hub" and isinstance(part.path, str)
    )
    return [each for each in named if isinstance(each, str) and _on_hub(each)]


def _results(recipe: Recipe, scores: dict[str, Any], tag: str) -> Iterator[EvalResult]:
    """One entry per finite score of what was held out."""
    of = _datasets(recipe)
    data: dict[str, Any] = {
        "dataset_type": of[0] if of and recipe.data.sources is None else "text",
        "dataset_name": recipe.data.task or "held-out text",
    }
    data |= {"dataset_config": recipe.data.task} if recipe.data.task else {}
    how = " (mean of batch means over n + 1)" if scores.get("mode") == "paper" else ""
    for metric, value in scores.items():
        if metric != "step" and isinstance(value, float) and math.isfinite(value):
            title = f"{metric.replace('_', ' ')}{how}"
            yield EvalResult(task_type=tag, metric_type=metric, metric_name=title, metric_value=value, **data)


def _on_hub(name: str) -> bool:
    """Whether it is a name of the hub: local paths of a resolved recipe are absolute, and told nobody."""
    return HUB_NAME.fullmatch(name) is not None


def _model(stored: StoredModel) -> dict[str, Any]:
    config = stored.model.config.get_text_config()
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    return {
        "architecture": type(stored.model).__name__,
        "parameters": f"{sum(parameter.numel() for parameter in stored.model.parameters()):,}",
        "dtype": str(stored.model.dtype).removeprefix("torch."),
        "vocabulary": config.vocab_size,
        **{name: getattr(config, name) for name in names if getattr(config, name, None) is not None},
    }


def _training(recipe: Recipe, step: int | None) -> dict[str, Any]:
    optim, train = recipe.optim, recipe.train
    facts: dict[str, Any] = {
        **({"task": f"GLUE {recipe.data.task}"} if recipe.data.task else {}),
        "method": optim.adapter or optim.method,
        "optimizer steps": step,
        "sequences per step": train.global_batch_size,
        "tokens per sequence": recipe.data.max_length,
        **{name.replace("_", " "): rate for name, rate in optim.peak_rates.items()},
        "schedule": optim.lr_scheduler_type,
        "weight decay": optim.weight_decay,
        "seed": train.seed,
    }
    if optim.method != "full":
        facts |= {"rank": optim.rank, "target modules": ", ".join(optim.target_modules)}
    if optim.method == "galore":
        facts |= {"scale": optim.effective_scale, "subspace refresh every": f"{optim.update_proj_gap} steps"}
    return facts


def _table(title: str, facts: dict[str, Any]) -> str:
    rows = "".join(f"| {name.replace('_', ' ')} | {_shown(value)} |\n" for name, value in facts.items())
    return f"## {title}\n\n| | |\n|---|---|\n{rows}"


def _shown(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)
