"""What the package ships: every recipe is right, says where it comes from, and carries the paper's numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from galore.trainer.common.format import GIB
from galore.trainer.fit.hostmemory import host_profile
from galore.trainer.fit.predict import profile_on
from galore.trainer.machine.cards import card
from galore.trainer.recipe.load import load_recipe
from galore.trainer.recipe.methods import METHODS
from galore.trainer.recipe.schema.recipe import Recipe
from galore.trainer.recipe.shipped import FOLDER, about, shipped_names
from galore.trainer.tasks.glue import TASKS

NAMES = shipped_names()
SIZES = ["60m", "130m", "350m", "1b", "7b"]

CARDS = {  # GiB that each may take of its card, with the context
    "llama-7b-24gb": ("rtx4090", 22.0, 1024),
    "llama-7b-24gb-normuon": ("rtx4090", 19.0, 256),
    "llama-7b-16gb": ("rtx4080", 14.0, 512),
    "llama-7b-12gb": ("rtx4070", 10.5, 256),
    "llama-7b-24gb-100k": ("rtx4090", 21.5, 256),
    "llama-13b-24gb": ("rtx4090", 22.0, 512),
    "llama-1b-8gb": ("rtx3070", 7.0, 512),
    "retnet-1.3b": ("rtx4090", 19.0, 512),
    "llama-32b-24gb": ("rtx4090", 18.0, 512),
    "llama-70b-24gb": ("rtx4090", 18.5, 256),
    "qwen-32b-24gb": ("rtx4090", 20.0, 256),
}
LONG = "llama-7b-24gb-100k"
RAM = {"llama-32b-24gb": 48, "llama-70b-24gb": 96, "qwen-32b-24gb": 48}  # GiB of the machine, the smallest sold

# hidden, intermediate, heads, layers, learning rate, rank, T, steps, warm-up, clip
PAPER = {
    "60m": (512, 1376, 8, 8, 0.01, 128, 200, 10_000, 1_000, None),
    "130m": (768, 2048, 12, 12, 0.01, 256, 200, 20_000, 2_000, None),
    "350m": (1024, 2736, 16, 24, 0.01, 256, 200, 60_000, 6_000, None),
    "1b": (2048, 5461, 32, 24, 0.01, 512, 200, 100_000, 10_000, None),
    "7b": (4096, 11008, 32, 32, 0.005, 1024, 500, 150_000, 15_000, 1.0),
}


def test_names() -> None:
    variants = ["", "-full", "-galore", "-galore-8bit", "-lora", "-normuon"]
    expected = [f"llama-{size}{variant}" for size in SIZES for variant in variants]
    expected.remove("llama-7b-full")  # 50 GiB of weights, gradients and states: no single consumer GPU holds them
    expected.remove(
        "llama-7b-normuon"
    )  # 1,024 tokens at a time would move a whole gradient for each: see the -24gb- one
    variants = ["", "-frugal-r4", "-full", "-galore-r4", "-galore-r8", "-lora-r8"]
    glue = [f"roberta-glue{variant}" for variant in variants]
    named = ["demo", "continue-pretraining", "demo-normuon", "extend-context", "finetune-chat", "finetune-instruct"]
    assert sorted([*named, "retnet-demo", *glue, *expected, *CARDS]) == sorted(NAMES)
    assert NAMES[: len(named)] == named


@pytest.mark.parametrize("name", NAMES)
def test_loads_and_is_described(name: str) -> None:
    loaded = load_recipe(name)
    assert isinstance(loaded.recipe, Recipe)
    assert loaded.name == name
    assert 20 < len(about(name)) < 120


@pytest.mark.parametrize("name", NAMES)
def test_editor_header_points_to_the_schema_beside_it(name: str) -> None:
    first = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
    header, _, schema = first.partition("=")
    assert header == "# yaml-language-server: $schema"
    assert (FOLDER / schema).is_file()


@pytest.mark.parametrize("name", [name for name in NAMES if name.count("-") > 1])
def test_variants_are_derived_not_cloned(name: str) -> None:
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    derived = dict.fromkeys(RAM, "llama-13b-24gb") | {
        "llama-13b-24gb": "llama-7b",
        LONG: "llama-7b-12gb",
        "llama-7b-24gb-normuon": "llama-7b-24gb",
    }
    parent = derived.get(name, "-".join(name.split("-")[:2]))
    assert f"\nextends: {parent}\n" in text
    assert len(text.splitlines()) < (13 if name.startswith("llama") and name not in CARDS else 30)


@pytest.mark.parametrize("name", CARDS)
def test_card_recipes_hold_a_real_batch(name: str) -> None:
    recipe = load_recipe(name).recipe
    assert recipe.data.max_length == (102_400 if name == LONG else 2048)
    assert recipe.data.packing == "packed"
    assert recipe.train.global_batch_size * recipe.data.max_length >= (102_400 if name == LONG else 131_072)
    assert recipe.optim.update == "accumulate"
    assert recipe.optim.rank == CARDS[name][2]


@pytest.mark.slow
@pytest.mark.parametrize("name", CARDS)
def test_card_recipes_fit_with_room_to_spare(name: str) -> None:
    gpu, gibibytes, _ = CARDS[name]
    profile = profile_on(load_recipe(name), card(gpu))
    assert profile.fits
    assert profile.total.high <= gibibytes * GIB


@pytest.mark.parametrize("name", ["llama-32b-24gb", *(pytest.param(e, marks=pytest.mark.slow) for e in list(RAM)[1:])])
def test_streamed_recipes_fit_the_smallest_machine_that_they_name(name: str) -> None:
    assert load_recipe(name).recipe.train.stream_weights
    host = host_profile(load_recipe(name), "cuda")
    assert host.least_machine == RAM[name]
    assert f"{RAM[name]} GB of host memory" in about(name)


def test_long_sequences_wait_in_the_memory_that_the_recipe_names() -> None:
    recipe = load_recipe(LONG)
    assert recipe.recipe.train.tile_tokens == "auto"
    assert recipe.recipe.model.max_position_embeddings == recipe.recipe.data.max_length
    assert host_profile(recipe, "cuda").least_machine == 48
    assert "48 GB of host memory" in about(LONG)


@pytest.mark.parametrize("size", SIZES)
def test_paper_settings(size: str) -> None:
    recipe = load_recipe(f"llama-{size}-galore").recipe
    model, optim, train, data = recipe.model, recipe.optim, recipe.train, recipe.data
    assert train.max_steps is not None
    warmup = round(optim.warmup_ratio * train.max_steps)
    shape = (model.hidden_size, model.intermediate_size, model.num_attention_heads, model.num_hidden_layers)
    clock = (optim.learning_rate, optim.rank, optim.update_proj_gap, train.max_steps, warmup, optim.max_grad_norm)
    assert (*shape, *clock) == PAPER[size]
    assert (optim.effective_scale, optim.weight_decay, optim.min_lr_ratio) == (0.25, 0.0, 0.1)
    assert (optim.lr_scheduler_type, optim.adam_beta1, optim.adam_beta2) == ("cosine", 0.9, 0.999)
    assert (model.vocab_size, model.rms_norm_eps, model.tie_word_embeddings) == (32_000, 1e-6, False)
    assert (train.global_batch_size, data.max_length, data.packing) == (512, 256, "paper")
    assert (data.source, data.path, data.hub_config, data.tokenizer) == ("hub", "allenai/c4", "en", "t5-base")


@pytest.mark.parametrize("size", SIZES)
def test_variants_differ_in_the_method_only(size: str) -> None:
    base = load_recipe(f"llama-{size}").recipe
    for name in [name for name in NAMES if name.startswith(f"llama-{size}-") and name not in CARDS]:
        recipe = load_recipe(name).recipe
        assert recipe.model_copy(update={"optim": base.optim}) == base
        method = name.split("-")[2]
        assert recipe.optim.method == ("galore" if method == "normuon" else method)
        assert recipe.optim.state_dtype == ("8bit" if name.endswith("8bit") else "float32")
        if method != "normuon":
            assert recipe.optim.effective_scale == (0.25 if method == "galore" else 1.0)
        assert bool(recipe.optim.train_modules) is (method == "lora")


@pytest.mark.parametrize("size", SIZES[:-1])
def test_matrices_under_normuon_move_at_eight_times_the_rate_of_adamw(size: str) -> None:
    """As `trainer/recipe/methods.py` has it for a rule that orthogonalizes."""
    found, control = (load_recipe(f"llama-{size}-{name}").recipe.optim for name in ("normuon", "full"))
    rate = METHODS["normuon-joint-4bit"].rate
    assert found.learning_rate * found.effective_scale == pytest.approx(rate * control.learning_rate)
    assert (found.inner, found.residual, found.rank) == ("normuon", "joint-4bit", 0.0625)


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("-normuon")])
def test_ends_under_normuon_have_rates_of_their_own_and_the_head_soap(name: str) -> None:
    optim = load_recipe(name).recipe.optim
    assert optim.embedding_learning_rate == "5x"
    assert (optim.head_inner, optim.head_learning_rate) == ("soap", "0.5x")


def test_demo_needs_no_network_and_fits_a_laptop() -> None:
    recipe = load_recipe("demo").recipe
    assert recipe.data.source == "packaged"
    assert recipe.data.tokenizer is None
    assert recipe.model.name_or_path is None
    assert recipe.train.max_steps is not None
    assert recipe.train.max_steps * recipe.train.global_batch_size * recipe.data.max_length < 2_000_000


def test_the_retnets_are_the_papers_and_the_demos_twin() -> None:
    """A block has 12 d² weights, as a transformer's has; the demo's has them up to a hundredth."""
    paper, demo, twin = (load_recipe(name).recipe for name in ("retnet-1.3b", "demo", "retnet-demo"))
    model = paper.model
    assert (model.hidden_size, model.num_hidden_layers, model.num_attention_heads) == (2048, 24, 8)
    assert model.intermediate_size == 2 * model.hidden_size
    assert (paper.optim.adam_beta2, paper.optim.weight_decay) == (0.98, 0.05)
    changed = twin.model.model_copy(update={"architecture": "llama", "intermediate_size": demo.model.intermediate_size})
    assert twin.model_copy(update={"model": changed}) == demo
    assert pytest.approx(4 * 256 + 3 * demo.model.intermediate_size, rel=0.01) == 8 * 256 + 2 * 512


def test_continued_pretraining_needs_a_model_and_text_only() -> None:
    recipe = load_recipe("continue-pretraining").recipe
    assert recipe.model.name_or_path is not None
    assert recipe.model.vocab_size is None
    assert (recipe.data.instruct, recipe.data.packing, recipe.data.tokenizer) == (False, "packed", None)
    assert recipe.train.global_batch_size * recipe.data.max_length >= 131_072


def test_extending_the_context_grows_to_factor_times_the_length() -> None:
    recipe = load_recipe("extend-context").recipe
    rope, lengths = recipe.model.rope, [stage.max_length for stage in recipe.train.length_stages]
    assert rope is not None
    assert (rope.factor, lengths, recipe.data.max_length) == (4, [8192], 16384)
    assert recipe.train.global_batch_size * recipe.data.max_length >= 131_072


def test_the_instruction_recipe_needs_a_path_and_a_model_only() -> None:
    recipe = load_recipe("finetune-instruct").recipe
    assert recipe.model.name_or_path is not None
    assert recipe.model.vocab_size is None
    assert recipe.data.instruct
    assert (recipe.data.loss_on, recipe.data.packing) == ("responses", "packed")
    assert (recipe.optim.method, recipe.data.tokenizer) == ("galore", None)


def test_the_chat_recipe_is_that_of_instructions_on_conversations() -> None:
    chat, instruct = load_recipe("finetune-chat").recipe, load_recipe("finetune-instruct").recipe
    assert (chat.data.messages_field, chat.data.prompt_field, chat.data.response_field) == ("messages", None, None)
    assert chat.model_copy(update={"data": instruct.data}) == instruct


GLUE = ("mnli", "sst2", "mrpc", "cola", "qnli", "qqp", "rte", "stsb")  # as the paper's table has them
RATES = {  # of that table
    ("galore-r4", 4, 4.0): (1e-5, 1e-5, 3e-5, 3e-5, 1e-5, 1e-5, 1e-5, 1e-5),
    ("galore-r8", 8, 2.0): (1e-5, 2e-5, 2e-5, 1e-5, 1e-5, 2e-5, 2e-5, 3e-5),
}
LORA = {  # of LoRA's own paper: learning rate, epochs
    "mnli": (5e-4, 30),
    "sst2": (5e-4, 60),
    "mrpc": (4e-4, 30),
    "cola": (4e-4, 80),
    "qnli": (4e-4, 25),
    "qqp": (5e-4, 25),
    "rte": (4e-4, 80),
    "stsb": (4e-4, 40),
}


@pytest.mark.parametrize(
    ("name", "rank", "scale", "task", "rate"),
    [(*key, *each) for key, rates in RATES.items() for each in zip(GLUE, rates, strict=True)],
)
def test_glue_carries_the_papers_settings(name: str, rank: int, scale: float, task: str, rate: float) -> None:
    recipe = load_recipe(f"roberta-glue-{name}", [f"data.task={task}"]).recipe
    optim, train = recipe.optim, recipe.train
    assert (optim.learning_rate, optim.rank, optim.scale, optim.update_proj_gap) == (rate, rank, scale, 500)
    assert (optim.lr_scheduler_type, optim.warmup_ratio, optim.min_lr_ratio, optim.weight_decay) == ("linear", 0, 0, 0)
    assert (train.num_train_epochs, train.global_batch_size) == (30, 32 if task == "cola" else 16)
    assert (recipe.data.max_length, recipe.data.path, recipe.eval.eval_epochs) == (512, "nyu-mll/glue", 1)
    assert {"query", "key", "value", "intermediate.dense", "output.dense"} <= set(optim.target_modules)


@pytest.mark.parametrize("task", LORA)
def test_lora_on_glue_carries_its_own_papers_settings(task: str) -> None:
    recipe = load_recipe("roberta-glue-lora-r8", [f"data.task={task}"]).recipe
    optim, train = recipe.optim, recipe.train
    assert (optim.learning_rate, train.num_train_epochs) == LORA[task]
    assert (optim.rank, optim.lora_alpha, optim.warmup_ratio, optim.weight_decay) == (8, 16, 0.06, 0.1)
    assert train.global_batch_size == (32 if task == "cola" else 16)


@pytest.mark.parametrize("name", ["frugal-r4", "full", "galore-r4", "galore-r8", "lora-r8"])
@pytest.mark.parametrize("task", TASKS)
def test_every_task_of_glue_loads_and_differs_in_the_method_and_length_only(name: str, task: str) -> None:
    base = load_recipe("roberta-glue", [f"data.task={task}"]).recipe
    recipe = load_recipe(f"roberta-glue-{name}", [f"data.task={task}"]).recipe
    epochs = {"num_train_epochs": recipe.train.num_train_epochs}
    assert recipe.model_copy(update={"optim": base.optim}) == base.model_copy(
        update={"train": base.train.model_copy(update=epochs)}
    )


def test_nothing_else_lies_in_the_folder() -> None:
    kinds = {path.suffix for path in Path(FOLDER).iterdir() if path.is_file()}
    assert kinds <= {".yaml", ".json", ".py", ".typed"}
