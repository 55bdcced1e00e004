"""Methods × learning rates × seeds: what runs, where, and what is refused."""

from __future__ import annotations

import pytest

from galore.trainer.common.errors import UserError
from galore.trainer.recipe.change import changed
from galore.trainer.recipe.load import load_recipe
from galore.trainer.recipe.methods import METHODS
from galore.trainer.sweep.compare.grid import grid
from galore.trainer.sweep.options import Trial


def test_every_seed_sees_every_method_before_the_next() -> None:
    trials = grid("demo", [], "full, galore", "0.003,0.01", "1,2")
    assert [trial.folder for trial in trials] == [
        f"{method}-lr{rate}-seed{seed}"
        for seed in (1, 2)
        for method in ("full", "galore")
        for rate in ("0.003", "0.01")
    ]


def test_a_number_alone_is_a_seed_and_runs_are_counted_up_from_the_recipes() -> None:
    assert [trial.seed for trial in grid("demo", ["train.seed=7"], "full", seeds="5")] == [5]
    counted = grid("demo", ["train.seed=7"], "full", runs=3)
    assert [trial.folder for trial in counted] == ["full-seed7", "full-seed8", "full-seed9"]
    with pytest.raises(UserError, match="--runs: counts seeds, and --seeds names them"):
        grid("demo", [], "full", seeds="5", runs=5)


def test_settings_follow_a_method_and_come_after_its_own() -> None:
    (trial,) = grid("demo", [], "galore:optim.rank=32:optim.update_proj_gap=50")
    assert (trial.method, trial.label) == ("galore", "galore:optim.rank=32:optim.update_proj_gap=50")
    assert trial.folder == "galore_optim.rank_32_optim.update_proj_gap_50"
    assert (trial.recipe.optim.rank, trial.recipe.optim.update_proj_gap) == (32, 50)


def test_every_method_has_rates_of_its_own() -> None:
    folders = [trial.folder for trial in grid("demo", [], "full,galore,lora,galore:optim.scale=1", "auto")]
    of_full_rank = ["0.0005", "0.001", "0.002"]  # demo: 0.01 × 0.25 for matrices that move 2.5 times as fast
    assert folders[:3] == [f"full-lr{rate}" for rate in of_full_rank]
    assert folders[3:6] == [f"galore-lr{rate}" for rate in ("0.005", "0.01", "0.02")]
    assert folders[6:9] == [f"lora-lr{rate}" for rate in ("0.005", "0.01", "0.02")]
    assert folders[9:] == [f"galore_optim.scale_1-lr{rate}" for rate in ("0.0013", "0.0025", "0.005")]
    assert grid("demo", ["optim.method=full", "optim.scale=null"], "lora", "auto")[1].learning_rate == 0.1


def made(method: str, *overrides: str) -> Trial:
    (trial,) = grid("demo", overrides, method)
    return trial


def test_the_numbers_that_are_not_said_are_the_recipes() -> None:
    demo, trial = load_recipe("demo").recipe, made("full")
    assert (trial.learning_rate, trial.seed) == (demo.optim.learning_rate, demo.train.seed)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_a_right_recipe(method: str) -> None:
    (trial,) = grid("demo", [], method, "1e-3", "7")
    assert (trial.learning_rate, trial.seed) == (0.001, 7)


def test_what_a_method_contradicts_names_the_method() -> None:
    with pytest.raises(UserError, match=r"method galore:optim.rank=0: demo: 1 error"):
        grid("demo", [], "full,galore:optim.rank=0")


@pytest.mark.parametrize(
    ("methods", "rates", "seeds", "message"),
    [
        ("galor", None, None, "did you mean galore"),
        ("full,,lora", None, None, "between two commas"),
        ("full", "fast", None, "no learning rate"),
        ("full", "-1", None, "no learning rate"),
        ("full", "inf", None, "no learning rate"),
        ("full", None, "1.5", "no seed"),
        ("full", None, "9" * 19, "no seed"),
        ("full", None, "9" * 5000, "no seed"),
        ("full,full", None, None, "twice"),
    ],
)
def test_wrong_grids_are_refused(methods: str, rates: str | None, seeds: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        grid("demo", [], methods, rates, seeds)


OTHERS = {
    "demo": (),  # has scale: 0.25 in its file
    "scaled": ("optim.scale=2",),
    "fira": ("optim.residual=fira", "optim.scale=2"),
    "apollo": ("optim.residual=apollo", "optim.proj_type=random", "optim.scale=0.5"),
    "alice": ("optim.residual=alice", "optim.residual_scale=0.3", "optim.switch=0.5", "optim.transport=complete"),
    "int8": ("optim.weight_dtype=int8",),
    "immediate": ("optim.update=immediate", "optim.refresh=first-micro-batch", "optim.max_grad_norm=null"),
    "muon": ("optim.method=full", "optim.inner=muon", "optim.scale=0.2"),
    "sumo": ("optim.inner=sumo", "optim.scale=3"),
    "relora": ("optim.method=lora", "optim.adapter=relora", "optim.relora_gap=9", "optim.scale=3"),
    "two parts": ("optim.inner=normuon", "optim.residual=joint-4bit", "optim.rank=0.0625", "optim.scale=0.8"),
    "4bit": ("optim.method=full", "optim.inner=muon", "optim.state_dtype=4bit", "optim.scale=null"),
    "factors": ("optim.method=lora", "optim.adapter=factors", "optim.scale=3"),
}


@pytest.mark.parametrize("base", OTHERS)
@pytest.mark.parametrize("method", METHODS)
def test_a_method_inherits_nothing_that_belongs_to_another(method: str, base: str) -> None:
    before, optim = load_recipe("demo", OTHERS[base]).recipe.optim, made(method, *OTHERS[base]).recipe.optim
    own = dict(each.removeprefix("optim.").split("=") for each in METHODS[method].settings)
    assert optim.method == own["method"]
    assert optim.inner == own.get("inner", "adamw")
    assert optim.residual == own.get("residual", "none")
    assert optim.adapter == own.get("adapter")
    assert optim.proj_type != "random" or "apollo" in method
    same_kind = (optim.method, optim.inner, optim.adapter) == (before.method, before.inner, before.adapter)
    assert optim.scale is None or (same_kind and optim.scale == before.scale)
    if optim.method == "full":
        assert optim.effective_scale == (0.2 if (base, method) == ("muon", "muon") else 1.0)


NORMUON = {"normuon", "normuon-4bit", "normuon-low-rank", "normuon-joint-4bit"}


@pytest.mark.parametrize("method", METHODS)
def test_rates_of_embeddings_and_head_go_with_the_rule_that_they_suit(method: str) -> None:
    (trial,) = grid("demo-normuon", [], method)
    assert trial.recipe.optim.embedding_learning_rate == ("5x" if method in NORMUON else None)
    faster = changed(trial.loaded, {"optim.learning_rate": 0.1})
    assert faster is not None
    own = faster.recipe.optim.peak_rates.get("embedding_learning_rate")
    assert own == (0.5 if method in NORMUON else None)


@pytest.mark.parametrize("key", ["embedding_learning_rate", "head_learning_rate"])
@pytest.mark.parametrize("method", METHODS)
def test_a_rate_that_is_given_for_all_is_for_all_that_train_what_has_it(method: str, key: str) -> None:
    given = [f"optim.{key}=0.03"]
    (trial,) = grid("demo-normuon", given, method, "0.001")
    assert getattr(trial.recipe.optim, key) == 0.03
    (trial,) = grid("demo-normuon", [*given, "optim.train_modules=[]"], method)
    assert getattr(trial.recipe.optim, key) == (None if method in ("lora", "relora") else 0.03)
    (trial,) = grid("demo-normuon", given, f"{method}:optim.{key}=0.2")
    assert getattr(trial.recipe.optim, key) == 0.2


@pytest.mark.parametrize("method", METHODS)
def test_beside_adapters_on_drawn_matrices_all_is_trained_that_is_no_target(method: str) -> None:
    in_full = ("embed_tokens", "lm_head", "norm") if method in ("lora", "relora") else ()
    assert made(method).recipe.optim.train_modules == in_full
    trained_before = [] if method == "low-rank" else ["model.name_or_path=a/b"]
    assert made(method, *trained_before).recipe.optim.train_modules == (() if trained_before else in_full)
    kept = made(method, "optim.train_modules=[norm]").recipe.optim.train_modules
    assert kept == ("norm",)
    target = made(method, "optim.target_modules=[lm_head, self_attn]").recipe.optim.train_modules
    assert target == tuple(name for name in in_full if name != "lm_head")


def test_a_share_of_the_width_is_a_whole_rank_for_adapters() -> None:
    for method in ("lora", "relora", "low-rank"):
        (trial,) = grid("demo-normuon", ["model.hidden_size=320", "model.num_attention_heads=4"], method)
        assert trial.recipe.optim.rank == 20
    (trial,) = grid("demo-normuon", ["optim.rank=0.0001"], "lora")
    assert trial.recipe.optim.rank == 1
    (trial,) = grid("demo-normuon", ["model.name_or_path=a/b"], "lora")  # whose file says how wide it is
    assert trial.recipe.optim.rank == 128
    (trial,) = grid("demo-normuon", ["optim.rank=8"], "lora")
    assert trial.recipe.optim.rank == 8


def test_what_belongs_to_the_method_itself_is_the_recipes() -> None:
    optim = made("galore-8bit", "optim.scale=2", "optim.proj_type=svd", "optim.update_proj_gap=7").recipe.optim
    assert (optim.scale, optim.proj_type, optim.update_proj_gap, optim.state_dtype) == (2, "svd", 7, "8bit")


def test_the_user_may_scale_a_control() -> None:
    assert made("full:optim.scale=0.5").recipe.optim.scale == 0.5
