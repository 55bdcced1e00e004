"""A recipe from its file to the frozen model: types, extends, overrides, relative paths, and back from the dump."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from galore.trainer.recipe.load import LoadedRecipe, load_recipe, recipe_from_resolved
from galore.trainer.recipe.parse.problems import RecipeError
from galore.trainer.recipe.shipped import shipped_names

SMALL = """\
data:
  source: packaged
train:
  max_steps: 10
"""


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(text: str, name: str = "mine.yaml") -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def test_file(write: Any, tmp_path: Path) -> None:
    loaded = load_recipe(write(SMALL))
    assert isinstance(loaded, LoadedRecipe)
    assert (loaded.recipe.train.max_steps, loaded.recipe.data.source) == (10, "packaged")
    assert (loaded.name, loaded.origin, loaded.base_dir) == ("mine", str(tmp_path / "mine.yaml"), tmp_path)


def test_shipped_name_is_relative_to_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    loaded = load_recipe("demo")
    assert (loaded.name, loaded.origin, loaded.base_dir) == ("demo", "demo", tmp_path)


@pytest.mark.parametrize(
    ("written", "read"),
    [("1e-3", 1e-3), ("1E3", 1e3), (".5", 0.5), ("1_000.5", 1000.5), ("3", 3.0), ("'2e-4'", 2e-4), ("1.e-2", 1e-2)],
)
def test_numbers(write: Any, written: str, read: float) -> None:
    assert load_recipe(write(SMALL + f"optim: {{learning_rate: {written}}}")).recipe.optim.learning_rate == read


@pytest.mark.parametrize(
    ("written", "read"), [("10_000", 10_000), ("1e4", 10_000), ("010", 10), ("0x10", 16), ("10.0", 10)]
)
def test_integers(write: Any, written: str, read: int) -> None:
    recipe = load_recipe(write(f"data: {{source: packaged}}\ntrain: {{max_steps: {written}}}")).recipe
    assert recipe.train.max_steps == read


@pytest.mark.parametrize("written", ["on", "no", "12:30", "2024-01-01", "007", "1e5", "true", "8bit", "0b11"])
def test_text_stays_as_written(write: Any, written: str) -> None:
    assert load_recipe(write(SMALL + f"log: {{run_name: {written}}}")).recipe.log.run_name == written


@pytest.mark.parametrize(("written", "read"), [("true", True), ("False", False), ("yes", True), ("off", False)])
def test_booleans(write: Any, written: str, read: bool) -> None:
    recipe = load_recipe(write(SMALL + f"optim: {{stagger: {written}}}")).recipe
    assert recipe.optim.stagger is read


def test_empty_section_and_byte_order_mark(write: Any) -> None:
    assert load_recipe(write("\ufeff" + SMALL + "eval:\n")).recipe.eval.mode == "token"


def test_overrides_win_and_the_last_one_most(write: Any) -> None:
    overrides = ["optim.rank=8", "optim.rank=16", "train.max_steps=null", "train.num_train_epochs=.5"]
    overrides += ["optim.target_modules=[self_attn]", "eval.sample_prompt=In the beginning"]
    recipe = load_recipe(write(SMALL), overrides).recipe
    assert (recipe.optim.rank, recipe.train.max_steps, recipe.train.num_train_epochs) == (16, None, 0.5)
    assert recipe.optim.target_modules == ("self_attn",)
    assert recipe.eval.sample_prompt == "In the beginning"


def test_override_may_contain_an_equals_sign(write: Any) -> None:
    assert load_recipe(write(SMALL), ["eval.sample_prompt=a=b"]).recipe.eval.sample_prompt == "a=b"


def test_extends_a_shipped_recipe(write: Any) -> None:
    recipe = load_recipe(write("extends: llama-60m\noptim: {rank: 32, target_modules: [mlp]}")).recipe
    assert (recipe.model.hidden_size, recipe.optim.rank, recipe.optim.target_modules) == (512, 32, ("mlp",))
    assert recipe.optim.update_proj_gap == 200  # a section is merged key by key, not replaced


def test_extends_a_file_beside_it(write: Any) -> None:
    write(SMALL, "base.yaml")
    assert load_recipe(write("extends: ../base.yaml\ntrain: {seed: 3}", "sub/mine.yaml")).recipe.train.max_steps == 10


@pytest.mark.parametrize("name", shipped_names())
def test_every_shipped_recipe_may_be_extended(
    write: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(write(f"extends: {name}\ntrain: {{seed: 7}}")).recipe
    assert recipe == load_recipe(name, ["train.seed=7"]).recipe


def test_a_chain_of_any_length_the_nearest_wins(write: Any) -> None:
    write("extends: roberta-glue-galore-r4\ntrain: {seed: 0, save_steps: 5}", "0.yaml")
    for number in range(1, 40):
        write(f"extends: {number - 1}.yaml\ntrain: {{seed: {number}}}", f"{number}.yaml")
    loaded = load_recipe(write("extends: 39.yaml"), ["optim.rank=3"])
    train, optim = loaded.recipe.train, loaded.recipe.optim
    assert (train.seed, train.save_steps, train.num_train_epochs, optim.rank) == (39, 5, 30, 3)
    lines = loaded.text.splitlines()
    assert lines[0].endswith("mine.yaml")
    assert [line.split()[-1].rpartition("/")[2] for line in lines[1:44]] == [
        *(f"{number}.yaml" for number in reversed(range(40))), "roberta-glue-galore-r4", "roberta-glue", "optim.rank=3",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("files", "circle"),
    [
        ({"mine": "mine.yaml"}, "mine.yaml → mine.yaml"),
        ({"mine": "a.yaml", "a": "b.yaml", "b": "./mine.yaml"}, "mine.yaml → a.yaml → b.yaml → mine.yaml"),
        ({"mine": "a.yaml", "a": "b.yaml", "b": "c.yaml", "c": "link.yaml"}, "a.yaml → b.yaml → c.yaml → a.yaml"),
    ],
)
def test_a_circle_is_refused_by_its_files(
    write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], circle: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.yaml").symlink_to("a.yaml")
    for name, parent in files.items():
        write(SMALL + f"extends: {parent}", f"{name}.yaml")
    with pytest.raises(RecipeError) as error:
        load_recipe("mine.yaml")
    (problem,) = error.value.problems
    assert f":5:1: extends: goes round in a circle: {circle}\n    → take" in str(error.value)
    assert problem.place.source == f"{list(files)[-1]}.yaml"


def test_what_is_wrong_anywhere_in_a_chain_is_told_where_it_stands(
    write: Any, monkeypatch: Any, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    write("extends: demoo\ntrain: {sead: 1}", "a.yaml")
    write("extends: a.yaml\noptim: {rank: x}", "b.yaml")
    with pytest.raises(RecipeError) as error:
        load_recipe(write("extends: b.yaml", "c.yaml"))
    told = str(error.value)
    assert "a.yaml:1:1: extends: neither a shipped recipe nor a file: demoo\n    → did you mean demo?" in told
    assert "a.yaml:2:9: train.sead" in told
    assert "b.yaml:2:9: optim.rank" in told
    assert len(error.value.problems) == 3


@pytest.mark.parametrize("parent", ["broken.yaml", "folder", "/dev/null", "pipe"])
def test_what_an_unreadable_parent_would_have_said_is_not_missed(write: Any, tmp_path: Path, parent: str) -> None:
    write("a: [", "broken.yaml")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(RecipeError) as error:
        load_recipe(write(f"optim: {{rank: 3}}\nextends: {parent}"))
    told = str(error.value)
    assert f"mine.yaml:2:1: extends: `{parent}` cannot be read" in told
    assert "2 errors" in told
    assert "section is missing" not in told


def test_extends_nothing_known(write: Any) -> None:
    with pytest.raises(RecipeError) as error:
        load_recipe(write("train: {sead: 1}\nextends: demoo"))
    assert "mine.yaml:2:1: extends: neither a shipped recipe nor a file: demoo\n    → did you mean demo?" in str(
        error.value
    )
    assert "train.sead" in str(error.value)
    assert len(error.value.problems) == 2  # and no complaint about what the parent would have said


def test_each_path_is_relative_to_where_it_is_written(
    write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    write("data: {path: parent.txt, validation_path: [a.txt, /b.txt]}\ntrain: {max_steps: 1}", "base/base.yaml")
    mine = write("extends: ../base/base.yaml\ndata: {validation_path: 'own/*.txt'}", "sub/mine.yaml")
    data = load_recipe(mine).recipe.data
    assert (data.path, data.validation_path) == (str(tmp_path / "base/parent.txt"), str(tmp_path / "sub/own/*.txt"))
    data = load_recipe(mine, ["data.path=[../x.txt, ~/y.txt]", "data.cache_dir=c"]).recipe.data
    assert data.path == [str(tmp_path / "x.txt"), str(Path.home() / "y.txt")]
    assert data.cache_dir == str(tmp_path / "here/c")


def test_hub_names_stay_names(write: Any, tmp_path: Path) -> None:
    (tmp_path / "tok").mkdir()
    text = (
        "data: {source: hub, path: allenai/c4, tokenizer: tok}\nmodel: {name_or_path: t5-base}\ntrain: {max_steps: 1}"
    )
    recipe = load_recipe(write(text)).recipe
    assert (recipe.data.path, recipe.model.name_or_path) == ("allenai/c4", "t5-base")
    assert recipe.data.tokenizer == str(tmp_path / "tok")  # something is there


@pytest.mark.parametrize("name", ["demo", "llama-7b-galore-8bit", "llama-60m-lora"])
def test_the_dump_reads_back_equal(name: str) -> None:
    tricky = [
        "optim.train_modules=['1e5', no]",
        "eval.sample_prompt='yes\n: #\"'",
        "log.run_name='1e5'",
        "optim.adam_epsilon=1e-30",
    ]
    loaded = load_recipe(name, tricky)
    assert recipe_from_resolved(loaded.text, "recipe.yaml") == loaded.recipe
    assert loaded.recipe.eval.sample_prompt == 'yes : #"'


def test_every_field_is_dumped_with_its_description() -> None:
    text = load_recipe("demo").text
    assert (
        "  # T: optimizer steps between two refreshes of one layer's subspace. An integer > 0.\n  update_proj_gap:"
        in text
    )
    assert max(map(len, text.splitlines())) <= 120


def test_dimensions_beside_a_model_by_name_are_left_out_or_marked() -> None:
    loaded = load_recipe("demo", ["model.name_or_path=gpt2", "model.num_hidden_layers=3", "model.rope_theta=10000"])
    assert "rope_theta:" not in loaded.text, "the default"
    assert "  vocab_size: " in loaded.text, "which has an effect"
    assert (
        "  # Without effect beside the others: Number of decoder blocks. An integer > 0.\n"
        "  num_hidden_layers: 3\n" in loaded.text
    )
    assert recipe_from_resolved(loaded.text, "here") == loaded.recipe
    assert "Without effect" not in load_recipe("demo").text


def test_resolved_recipe_names_its_file() -> None:
    with pytest.raises(RecipeError, match=r"^run/recipe.yaml: 1 error\n  run/recipe.yaml:3:9: train.seed"):
        recipe_from_resolved("data:\n  source: packaged\ntrain: {seed: x, max_steps: 1}", "run/recipe.yaml")


def test_a_folder_whose_name_is_a_number_is_anchored_like_any_other(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("extends: demo\ndata: {source: local, path: 2024, cache_dir: 7}")
    data = load_recipe(str(tmp_path / "mine.yaml")).recipe.data
    assert (data.path, data.cache_dir) == (str(tmp_path / "2024"), str(tmp_path / "7"))
