"""The README.md of an exported model: what it is and how it came about, from the run's own records."""

from __future__ import annotations

from typing import Any

from galore.trainer.models.pretrained import kind_of
from galore.trainer.recipe.schema.recipe import Recipe
from galore.trainer.trained.runmodel import StoredModel


def model_card(stored: StoredModel) -> str:
    """Markdown with the hub's front matter. Says nothing of where the files lay on the machine that trained."""
    loads = kind_of(stored.model.config).__name__
    classifies = loads != "AutoModelForCausalLM"
    tag = "text-classification" if classifies else "text-generation"
    front = f"---\nlibrary_name: transformers\npipeline_tag: {tag}\ntags:\n- galore\n---\n"
    title = "# A classifier trained with galore\n" if classifies else "# A causal language model trained with galore\n"
    parts = [front, title, _table("Model", _model(stored))]
    if stored.recipe is not None:
        parts.append(_table("Training", _training(stored.recipe, stored.step)))
    if stored.run is not None and (final := stored.run.read_facts().get("final")):
        parts.append(_table("Validation" if classifies else "Held-out text", final))
    return "\n".join([*parts, _USE.replace("AutoModelForCausalLM", loads)])


_USE = """## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("this folder")
tokenizer = AutoTokenizer.from_pretrained("this folder")
```

Read by transformers 5, and by 4.57 where it has the architecture.
"""


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
        "learning rate": optim.learning_rate,
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
