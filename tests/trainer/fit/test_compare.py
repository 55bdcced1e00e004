"""The methods side by side, each a recipe of its own."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from galore.trainer.fit import compare as module
from galore.trainer.fit.compare import compare, methods
from galore.trainer.machine.cards import card
from galore.trainer.memory.profile import Profile
from galore.trainer.recipe.change import changed
from galore.trainer.recipe.load import LoadedRecipe

Tiny = Callable[..., LoadedRecipe]

AT_ONCE = ("optim.update=immediate", "optim.refresh=first-micro-batch", "optim.max_grad_norm=null")
BASES: dict[str, tuple[str, ...]] = {
    "galore": ("train.global_batch_size=8",),
    "svd": ("optim.proj_type=svd", "optim.refresh=summed", "optim.stagger=false"),
    "two passes": ("optim.refresh=two-pass", "optim.stagger=false", "train.global_batch_size=8"),
    "immediate": AT_ONCE,
    "immediate svd": (*AT_ONCE, "optim.proj_type=svd"),
    "full": ("optim.method=full", "optim.state_dtype=8bit"),
    "int8": ("optim.weight_dtype=int8",),
    "fira": ("optim.residual=fira",),
    "alice": ("optim.residual=alice", "optim.residual_scale=0.3", "optim.switch=0.5", "optim.transport=complete"),
    "sumo": ("optim.inner=sumo",),
    "normuon": ("optim.inner=normuon", "optim.residual=joint-4bit", "optim.rank=0.25", "optim.gradient_sums=host"),
    "whole muon": ("optim.method=full", "optim.inner=muon", "optim.state_dtype=4bit"),
    "scale": ("optim.method=full", "optim.inner=scale"),
    "soap at the head": ("optim.head_inner=soap",),
    "full with soap at the head": ("optim.method=full", "optim.head_inner=soap"),
    "muon with soap at the head": ("optim.inner=muon", "optim.head_inner=soap"),
    "relora": ("optim.method=lora", "optim.adapter=relora"),
    "lora": ("optim.method=lora", "optim.train_modules=[embed_tokens]"),
}


OWN = {
    "fira": "GaLore with residual fira",
    "alice": "GaLore with residual alice",
    "sumo": "GaLore with sumo",
    "normuon": "GaLore with normuon, residual joint-4bit",
    "whole muon": "muon",
    "scale": "scale",
    "relora": "relora",
    "soap at the head": "GaLore with soap at the head",
    "full with soap at the head": "adamw, soap at the head",
    "muon with soap at the head": "GaLore with muon, soap at the head",
}


@pytest.mark.parametrize("base", BASES)
def test_every_method_can_be_made_of_every_recipe(tiny: Tiny, base: str) -> None:
    loaded = tiny(*BASES[base])
    recipes = {name: changed(loaded, settings) for name, settings in methods(loaded.recipe).items()}
    if base in OWN:
        own_name, own_recipe = next(iter(recipes.items()))
        assert own_name == f"{OWN[base]}, as the recipe is"
        assert own_recipe is not None
        assert recipes.pop(own_name).recipe == loaded.recipe
    rank, adapted = ("0.25", 16) if base == "normuon" else ("8", 8)
    assert list(recipes) == [
        "AdamW",
        "AdamW 8-bit",
        f"LoRA r={adapted}",
        f"GaLore r={rank}",
        f"GaLore r={rank}, update in the hook",
        f"GaLore 8-bit r={rank}",
        f"GaLore 8-bit r={rank}, update in the hook",
    ]
    for name, other in recipes.items():
        assert other is not None, name
        optim, method = other.recipe.optim, {"A": "full", "L": "lora", "G": "galore"}[name[0]]
        assert (optim.method, optim.rank) == (method, adapted if method == "lora" else float(rank))
        assert (optim.inner, optim.residual) == ("adamw", "none")
        assert optim.head_inner is None
        assert method == "galore" or optim.weight_dtype is None
        assert (optim.state_dtype == "8bit") == ("8-bit" in name)
        assert (optim.update == "immediate") == name.endswith("in the hook")
        own = None if "immediate" in base else loaded.recipe.optim.refresh
        assert optim.refresh == ("first-micro-batch" if name.endswith("in the hook") else own)
        assert other.recipe.train.micro_batch_size == loaded.recipe.train.micro_batch_size
        assert other.recipe.model == loaded.recipe.model


def test_profiles_differ_as_the_methods_do(tiny: Tiny) -> None:
    found = dict(compare(tiny("model.num_hidden_layers=1", "train.global_batch_size=4"), card("rtx4090")))

    def most(name: str, category: str) -> int:
        profile = found[name]
        assert profile is not None
        return profile.categories[category]

    states = {name: most(name, "optimizer_states") for name in found}
    assert states["AdamW"] > states["GaLore r=8"] > states["GaLore 8-bit r=8"]
    assert states["AdamW"] > 3 * states["AdamW 8-bit"]
    assert most("LoRA r=8", "weights") > most("AdamW", "weights") == most("GaLore r=8", "weights")
    assert most("AdamW", "projectors") == most("LoRA r=8", "projectors") == 0 < most("GaLore r=8", "projectors")
    assert most("GaLore r=8, update in the hook", "accumulators") == 0 < most("GaLore r=8", "accumulators")


def test_a_method_that_is_ruled_out_has_no_profile(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    possible = {"optim.method": "full"}
    monkeypatch.setattr(module, "methods", lambda recipe: {"no": {"optim.rank": 0}, "yes": possible})
    (no, none), (yes, profile) = compare(tiny(), card("rtx4090"))
    assert (no, none, yes) == ("no", None, "yes")
    assert isinstance(profile, Profile)
