"""The methods side by side: one model and batch, trained in full, with adapters and with GaLore."""

from __future__ import annotations

from collections.abc import Iterator

from galore.trainer.fit.predict import profile_on
from galore.trainer.machine.cards import Card
from galore.trainer.memory.profile import Profile
from galore.trainer.recipe.change import changed, not_inherited
from galore.trainer.recipe.extras import missing
from galore.trainer.recipe.load import LoadedRecipe
from galore.trainer.recipe.schema.recipe import Recipe

ADAPTER = dict.fromkeys(("optim.adapter", "optim.relora_gap", "optim.relora_warmup_steps"))
GALORE = {"optim.method": "galore", "optim.update": "accumulate"}
FLOATS, BYTES = {"optim.state_dtype": "float32"}, {"optim.state_dtype": "8bit"}


def methods(recipe: Recipe) -> dict[str, dict[str, object]]:
    """Name → settings that make the method of `recipe`, LoRA where peft is; ranks and all else stay as they are."""
    at_once = {
        **ADAPTER,
        "optim.method": "galore",
        "optim.update": "immediate",
        "optim.refresh": "first-micro-batch",
        "optim.max_grad_norm": None,
        "train.global_batch_size": recipe.train.micro_batch_size,
    }
    stepwise = {
        **ADAPTER,
        "optim.update": "accumulate",
        **({"optim.refresh": None} if recipe.optim.update == "immediate" else {}),
    }
    rank = f"r={recipe.optim.rank}"
    return {
        "AdamW": {**_control(recipe, "full"), **stepwise, **FLOATS},
        "AdamW 8-bit": {**_control(recipe, "full"), **stepwise, **BYTES},
        **({} if missing("peft") else {f"LoRA {rank}": {**_control(recipe, "lora"), **stepwise, **FLOATS}}),
        f"GaLore {rank}": {**GALORE, **stepwise, **FLOATS},
        f"GaLore {rank}, update in the hook": {**at_once, **FLOATS},
        f"GaLore 8-bit {rank}": {**GALORE, **stepwise, **BYTES},
        f"GaLore 8-bit {rank}, update in the hook": {**at_once, **BYTES},
    }


def _control(recipe: Recipe, method: str) -> dict[str, object]:
    """A method that projects nothing, free of what belongs to the recipe's own."""
    return {"optim.method": method, **not_inherited(recipe, {"method": method})}


def compare(loaded: LoadedRecipe, card: Card) -> Iterator[tuple[str, Profile | None]]:
    """Each method's profile, as it is traced; None where the recipe's other settings rule the method out."""
    for name, settings in methods(loaded.recipe).items():
        other = changed(loaded, settings)
        yield name, None if other is None else profile_on(other, card)
