"""Between a run and its resumption only what carries it out may change; what it computes is told as it changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from galore.trainer.recipe.load import load_recipe
from galore.trainer.recipe.schema.recipe import Recipe
from galore.trainer.recipe.schema.resume import (
    SCHEDULE,
    as_before,
    changed_mathematics,
    mathematics,
    micro_batch_counts,
    other_mathematics,
    taken_over,
    with_schedule,
)
from galore.trainer.recipe.schema.rope import RopeSection


def recipe(*overrides: str) -> Recipe:
    return load_recipe("demo", list(overrides)).recipe


@pytest.mark.parametrize("override", ["train.device=cpu", "train.num_threads=1", "data.path=moved.txt"])
def test_execution_may_change(override: str) -> None:
    files = ("data.source=local", "data.path=here.txt")
    old, new = recipe(*files), recipe(*files, override)
    assert old != new
    assert changed_mathematics(old, new) == []
    assert mathematics(old) == mathematics(new)


def test_a_rate_may_be_written_as_a_multiple() -> None:
    key = "optim.embedding_learning_rate"
    number, multiple, other = recipe(f"{key}=0.02"), recipe(f"{key}=2x"), recipe(f"{key}=3x")
    assert changed_mathematics(number, multiple) == []
    assert other_mathematics(mathematics(number), multiple) == []
    assert mathematics(multiple)[key] == 0.02
    assert changed_mathematics(multiple, other) == [f"{key}: 0.02 → 0.03"]
    assert other_mathematics(mathematics(multiple), other) == [f"{key}: 0.02 → 0.03"]


@pytest.mark.parametrize(
    "data", [["data.source=hub", "data.path=a/b"], ["data.path=null", "data.sources=[{name: a/b}]"]]
)
def test_another_length_makes_no_stream_of_what_was_read_whole(data: list[str]) -> None:
    data = ["data.source=local", *data]
    epochs, steps = recipe(*data, "train.num_train_epochs=2"), recipe(*data, "train.max_steps=9")
    (changed,) = [line for line in changed_mathematics(epochs, steps) if line.startswith("data.")]
    assert changed == "data.streaming: false → true"
    assert changed in other_mathematics(mathematics(epochs), steps)
    assert taken_over(mathematics(epochs), steps)["data.streaming"] is False
    kept = recipe(*data, "train.max_steps=9", "data.streaming=false")
    assert [line for line in changed_mathematics(epochs, kept) if line.startswith("data.")] == []
    assert other_mathematics(mathematics(epochs), kept) == []


@pytest.mark.parametrize(
    "data", [["data.source=hub", "data.path=a/b"], ["data.path=null", "data.sources=[{name: a/b}]"]]
)
def test_a_run_of_before_goes_on_streaming(data: list[str]) -> None:
    data = ["data.source=local", *data]
    steps, epochs = recipe(*data, "train.max_steps=9"), recipe(*data, "train.num_train_epochs=2")
    old = {key: value for key, value in mathematics(steps).items() if key != STREAMING}
    assert other_mathematics(old, steps) == []
    assert other_mathematics(old, recipe(*data, "train.max_steps=9", "data.streaming=true")) == []
    assert (taken_over(old, steps)[STREAMING], taken_over(old, epochs)[STREAMING]) == (True, True)
    assert other_mathematics(old, epochs) == ["data.streaming: true → false"]


def test_what_means_nothing_for_data_is_no_other_mathematics() -> None:
    """A section's way of reading where each source has its own, or is a file; the buffer of a stream where none is."""
    own = ["data.source=local", "data.path=null", "data.sources=[{name: a/b, streaming: false}, {path: c.txt}]"]
    whole, files = (
        ["data.source=hub", "data.path=a/b", "data.streaming=false"],
        ["data.source=local", "data.path=a.txt"],
    )
    steps, other = ["train.max_steps=9"], ["data.shuffle_buffer_size=7"]
    for before, after in (
        ([*own, "train.num_train_epochs=1"], [*own, *steps]),
        ([*whole, *steps], [*whole, *steps, *other]),
        ([*files, *steps], [*files, *steps, *other, "data.streaming=true"]),
    ):
        assert [line for line in changed_mathematics(recipe(*before), recipe(*after)) if line.startswith("data.")] == []
    streams = recipe("data.source=hub", "data.path=a/b", *steps)
    assert changed_mathematics(streams, recipe("data.source=hub", "data.path=a/b", *steps, *other))


@pytest.mark.parametrize(
    "override",
    [
        "data.tokenizer={}",
        "model.name_or_path={}",
        "extra_loss.teacher={}",
        "model.rope={{type: longrope, original_max_position_embeddings: 64, factors: {}}}",
    ],
)
def test_a_file_may_have_moved_and_is_another_one_while_the_old_is_there(tmp_path: Path, override: str) -> None:
    here, there = tmp_path / "a.json", tmp_path / "b.json"
    there.write_text("{}")
    key = override.partition("=")[0]
    section, name = key.split(".")
    old, new = (
        changed(section, name, yaml.safe_load(override.partition("=")[2].format(each))) for each in (here, there)
    )
    assert changed_mathematics(old, new) == []
    assert other_mathematics(mathematics(old), new) == []
    here.write_text("{}")
    assert [line.partition(":")[0] for line in changed_mathematics(old, new)] == [key]
    assert [line.partition(":")[0] for line in other_mathematics(mathematics(old), new)] == [key]


@pytest.mark.parametrize(("old", "new"), [("gpt2", "/there"), ("/gone", "gpt2"), ("/gone", None)])
def test_a_name_on_the_hub_moves_nowhere(old: str, new: str | None) -> None:
    assert len(changed_mathematics(changed("data", "tokenizer", old), changed("data", "tokenizer", new))) == 1


def changed(section: str, name: str, value: Any) -> Recipe:
    """The recipe with a value of one key, whatever it goes with."""
    base = recipe()
    value = RopeSection.model_validate(value) if name == "rope" else value
    made = getattr(base, section).model_copy(update={name: value})
    return base.model_copy(update={section: made})


def test_what_it_computes_is_told_from_old_to_new() -> None:
    old, new = recipe("optim.rank=8", "train.seed=1"), recipe("optim.rank=9", "train.seed=2")
    assert changed_mathematics(old, new) == ["optim.rank: 8 → 9", "train.seed: 1 → 2"]
    assert changed_mathematics(new, old) == ["optim.rank: 9 → 8", "train.seed: 2 → 1"]


def test_mathematics_is_json_of_every_other_field() -> None:
    known = mathematics(recipe("optim.rank=8"))
    assert json.loads(json.dumps(known)) == known
    assert known["optim.rank"] == 8
    assert not {"train.device", "data.path", "train.num_threads"} & known.keys()


COUNTING = [
    ("optim.refresh=first-micro-batch",),
    ("model.router_aux_loss=0.01",),
    (
        "optim.update=immediate",
        "optim.refresh=first-micro-batch",
        "optim.max_grad_norm=null",
        "train.global_batch_size=4",
    ),
]


@pytest.mark.parametrize("overrides", COUNTING)
def test_micro_batches_may_not_change_where_they_count(overrides: tuple[str, ...]) -> None:
    old = recipe("train.micro_batch_size=4", *overrides)
    assert micro_batch_counts(old)
    assert mathematics(old)["train.micro_batch_size"] == 4
    if old.optim.update == "accumulate":
        new = recipe("train.micro_batch_size=2", *overrides)
        assert changed_mathematics(old, new) == ["train.micro_batch_size: 4 → 2"]
        assert other_mathematics(mathematics(old), new) == ["train.micro_batch_size: 4 → 2"]
        assert other_mathematics(mathematics(old), old) == []


@pytest.mark.parametrize(
    "override", ["optim.proj_type=random", "optim.refresh=delayed", "optim.method=full", "model.router_aux_loss=0"]
)
def test_micro_batches_are_execution_elsewhere(override: str) -> None:
    old, new = (recipe(override, f"train.micro_batch_size={size}") for size in (4, 2))
    assert not micro_batch_counts(old)
    assert changed_mathematics(old, new) == other_mathematics(mathematics(old), new) == []


PAPER = "eval.mode=paper"


def test_what_is_scored_together_counts_where_batch_means_are_averaged() -> None:
    old, new = (recipe(PAPER, f"train.micro_batch_size={size}") for size in (4, 2))
    told = ["eval.micro_batch_size: 4 → 2"]
    assert changed_mathematics(old, new) == other_mathematics(mathematics(old), new) == told
    kept = recipe(PAPER, "train.micro_batch_size=2", "eval.micro_batch_size=4")
    assert changed_mathematics(old, kept) == other_mathematics(mathematics(old), kept) == []
    assert not micro_batch_counts(old), "it is the same training"
    other = recipe(PAPER, "train.micro_batch_size=4", "eval.micro_batch_size=2")
    assert changed_mathematics(old, other) == other_mathematics(mathematics(old), other) == told


def test_what_is_scored_together_is_execution_elsewhere() -> None:
    for name, overrides in (("demo", ()), ("roberta-glue", (PAPER, "data.task=sst2"))):
        old, new = (load_recipe(name, [*overrides, f"eval.micro_batch_size={size}"]).recipe for size in (4, 2))
        assert changed_mathematics(old, new) == other_mathematics(mathematics(old), new) == []


def test_a_run_that_does_not_know_what_it_scored_together_goes_on() -> None:
    known = {key: value for key, value in mathematics(recipe(PAPER)).items() if key != "eval.micro_batch_size"}
    assert other_mathematics(known, recipe(PAPER, "eval.micro_batch_size=1")) == []


def test_a_router_by_configuration_counts_as_one_by_the_recipe() -> None:
    old, new = (recipe(f"train.micro_batch_size={size}") for size in (4, 2))
    assert other_mathematics(mathematics(old, router=True), new) == ["train.micro_batch_size: 4 → 2"]
    assert other_mathematics(mathematics(old, router=True), old) == []
    assert changed_mathematics(old, new, router=True) == ["train.micro_batch_size: 4 → 2"]
    assert not micro_batch_counts(recipe("model.router_aux_loss=0"), router=True)


def test_a_key_of_another_version_had_its_default() -> None:
    here = recipe("optim.rank=8")
    trained = mathematics(here) | {"optim.of_tomorrow": 1}
    del trained["train.seed"]
    assert other_mathematics(trained, here) == []
    assert other_mathematics(trained | {"optim.rank": 4}, here) == ["optim.rank: 4 → 8"]


def test_the_schedule_is_compared_apart_and_comes_back_as_it_was_trained() -> None:
    old = recipe("optim.lr_scheduler_type=linear", "optim.warmup_ratio=0.2", "train.max_steps=7")
    new = recipe("optim.lr_scheduler_type=constant", "train.max_steps=9")
    assert other_mathematics(mathematics(old), new) == []
    assert with_schedule(new, mathematics(old)) == old
    assert with_schedule(new, {}).optim.lr_scheduler_type == "cosine", "the default of a version that knew no other"
    assert set(SCHEDULE) <= mathematics(new).keys()


def test_a_value_is_written_as_a_recipe_has_it() -> None:
    old, new = (load_recipe("demo", [each]).recipe for each in ("optim.scale=0.5", "optim.scale=null"))
    assert changed_mathematics(old, new) == ["optim.scale: 0.5 → null"]
    assert other_mathematics(mathematics(old), new) == ["optim.scale: 0.5 → null"]


CHAT = ("data.source=local", "data.path=x.jsonl", "data.messages_field=messages")
OF_SOURCES = ("data.source=local", "data.path=null")
LABELLED = "{path: x.jsonl, tokens_field: ids, labels_field: labels}"
KEY, ROUTER = "data.isolate_documents", "model.router_aux_loss"
STREAMING = "data.streaming"


def test_null_is_what_a_run_did_so_far() -> None:
    """Before there was `isolate_documents`, examples of a row saw each other; with it, null isolates them."""
    here, old = recipe(*CHAT), {key: value for key, value in mathematics(recipe(*CHAT)).items() if key != KEY}
    assert here.data.isolates
    assert other_mathematics(old, here) == []
    assert taken_over(old, here) == {KEY: False, ROUTER: None, STREAMING: None}
    assert taken_over(mathematics(here), here) == {KEY: None, ROUTER: None, STREAMING: None}
    assert taken_over(mathematics(here) | {KEY: True}, here) == {KEY: True, ROUTER: None, STREAMING: None}
    assert taken_over(old, recipe(*CHAT, f"{KEY}=true", f"{ROUTER}=0.1")) == {STREAMING: None}
    assert taken_over({}, here) == {KEY: False, ROUTER: 0.0, STREAMING: None}  # nor did routers balance


def test_what_is_asked_for_must_be_what_the_run_did() -> None:
    asked, refused = recipe(*CHAT, f"{KEY}=true"), recipe(*CHAT, f"{KEY}=false")
    old = {key: value for key, value in mathematics(asked).items() if key != KEY}
    assert other_mathematics(old, asked) == [f"{KEY}: false → true"]
    assert other_mathematics(old, refused) == []
    assert changed_mathematics(refused, asked) == [f"{KEY}: false → true"]
    assert changed_mathematics(refused, recipe(*CHAT)) == []
    assert other_mathematics({}, asked) == []  # a checkpoint that does not know


def test_a_recipe_that_lacks_a_key_did_without_it() -> None:
    known = mathematics(recipe(*CHAT)).keys()
    assert as_before(recipe(*CHAT), known) == recipe(*CHAT)
    assert as_before(recipe(*CHAT), known - {KEY}).data.isolates is False
    assert as_before(recipe(*CHAT), known - {ROUTER}).model.router_aux_loss == 0


@pytest.mark.parametrize(
    ("settings", "isolates"),
    [
        (CHAT, True),
        ((*CHAT, "data.packing=paper"), False),
        ((*CHAT, f"{KEY}=false"), False),
        ((), False),
        ((f"{KEY}=true",), True),
        ((*OF_SOURCES, f"data.sources=[{{path: text}}, {LABELLED}]"), True),
        ((*OF_SOURCES, "data.sources=[{path: text}, {path: x.jsonl, messages_field: messages}]"), True),
        ((*OF_SOURCES, "data.sources=[{path: text}, {path: x.jsonl, tokens_field: ids}]"), False),
        ((*OF_SOURCES, f"data.sources=[{{path: text}}, {LABELLED}]", f"{KEY}=false"), False),
    ],
)
def test_instructions_are_isolated_and_text_is_not(settings: tuple[str, ...], isolates: bool) -> None:
    assert recipe(*settings).data.isolates is isolates
