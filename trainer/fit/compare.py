"""The methods side by side: one model and batch, trained in full, with adapters and with GaLore."""

from __future__ import annotations

from collections.abc import Iterator

from galore.trainer.fit.predict import profile_on
from galore.trainer.machine.cards import Card
from galore.trainer.memory.profile import Profile
from galore.trainer.recipe.change import changed, not_inherited
from galore.trainer.recipe.extras import missing
from galore.trainer.recipe.load import LoadedRecipe
from galore.trainer.recipe.schema.optim import OptimSection
from galore.trainer.recipe.schema.recipe import Recipe

ADAPTER = dict.fromkeys(("optim.adapter", "optim.relora_gap", "optim.relora_warmup_steps"))
FLOATS, BYTES = {"optim.state_dtype": "float32"}, {"optim.state_dtype": "8bit"}


def methods(recipe: Recipe) -> dict[str, dict[str, object]]:
    """Name → settings that make the method of `recipe`, LoRA where peft is; ranks and all else stay as they are.

    A recipe that is none of them comes first, as it is.
    """
    galore, lora = _other(recipe, "galore"), _other(recipe, "lora")
    at_once = {
        **galore,
        **ADAPTER,
        "optim.update": "immediate",
        "optim.refresh": "first-micro-batch",
        "optim.gradient_sums": "device",
        "optim.max_grad_norm": None,
        "train.global_batch_size": recipe.train.micro_batch_size,
    }
    stepwise = {
        **ADAPTER,
        "optim.update": "accumulate",
        **({"optim.refresh": None} if recipe.optim.update == "immediate" else {}),
    }
    rank, adapted = f"r={recipe.optim.rank}", f"LoRA r={lora.get('optim.rank', recipe.optim.rank)}"
    return {
        **({} if _is_among_them(recipe.optim) else {f"{_named(recipe.optim)}, as the recipe is": {}}),
        "AdamW": {**_other(recipe, "full"), **stepwise, **FLOATS},
        "AdamW 8-bit": {**_other(recipe, "full"), **stepwise, **BYTES},
        **({} if missing("peft") else {adapted: {**lora, **stepwise, **FLOATS}}),
        f"GaLore {rank}": {**galore, **stepwise, **FLOATS},
        f"GaLore {rank}, update in the hook": {**at_once, **FLOATS},
        f"GaLore 8-bit {rank}": {**galore, **stepwise, **BYTES},
        f"GaLore 8-bit {rank}, update in the hook": {**at_once, **BYTES},
    }


def _is_among_them(optim: OptimSection) -> bool:
    """Whether a recipe is AdamW, LoRA or GaLore, and no variant."""
    rules = optim.inner, optim.residual, optim.head_inner
    return rules == ("adamw", "none", None) and optim.adapter in (None, "lora")


def _named(optim: OptimSection) -> str:
    """`GaLore with normuon, residual joint-4bit`, `muon, soap at the head` at full rank, or `relora`."""
    plain = optim.method == "galore" and optim.inner == "adamw"
    parts = ["" if plain else optim.inner, f"residual {optim.residual}" * (optim.residual != "none")]
    parts += [f"{optim.head_inner} at the head"] if optim.head_inner is not None else []
    told = ", ".join(part for part in parts if part)
    return optim.adapter or (f"GaLore with {told}" if optim.method == "galore" else told)


def _other(recipe: Recipe, method: str) -> dict[str, object]:
    """A method free of what belongs to the recipe's own."""
    return {"optim.method": method, **not_inherited(recipe, {"method": method}), "optim.head_inner": None}


def compare(loaded: LoadedRecipe, card: Card) -> Iterator[tuple[str, Profile | None]]:
    """Each method's profile, as it is traced; None where the recipe's other settings rule the method out."""
    for name, settings in methods(loaded.recipe).items():
        other = changed(loaded, settings)
        yield name, None if other is None else profile_on(other, card)
