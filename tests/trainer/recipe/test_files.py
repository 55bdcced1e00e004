"""Files that are no recipe, and names that are no file."""

from __future__ import annotations

from pathlib import Path

import pytest

from galore.trainer.common.errors import UserError
from galore.trainer.recipe.load import load_recipe, recipe_from_resolved
from galore.trainer.recipe.parse import source
from galore.trainer.recipe.parse.problems import RecipeError
from galore.trainer.recipe.parse.source import LARGEST_RECIPE_BYTES
from galore.trainer.recipe.shipped import refuse_as_model


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "r.yaml: is empty\n    → start from `galore recipes copy demo FILE`"),
        (b"# only a comment\n", "r.yaml: is empty"),
        (b"- a\n- b\n", "r.yaml: is not a recipe: it must consist of sections"),
        (b"hello", "r.yaml: is not a recipe: it must consist of sections"),
        (b"\x89PNG\r\n\x1a\n\x00", "r.yaml: is not a text file: byte 0x89 at 0 is not UTF-8"),
        (b"a\0b", "r.yaml: is not a text file: it contains NUL bytes"),
        (b"a: \x07", "r.yaml: is not YAML: unacceptable character #x0007"),
        (b"train:\n\tseed: 1\n", "r.yaml:2:1: a tab is used for indentation\n    → indent with spaces"),
        (b"train: seed: 1\n", "r.yaml:1:12: a colon is not expected here\n    → check the indentation"),
        (b"train: [1\n", "r.yaml:2:1: this is not valid YAML: expected ',' or ']'"),
        (b"train: 'x\n", "r.yaml:2:1: this is not valid YAML: found unexpected end of stream"),
        (b"a: 1\n---\nb: 1\n", "r.yaml:2:1: this is not valid YAML: but found another document"),
        (b"data: &a {source: packaged}\ntrain: *a\n", "r.yaml:2:8: this is not valid YAML: anchors and aliases"),
        (b"? [a, b]\n: 1\n", "r.yaml:1:3: a key must be a plain word"),
        (b"train: {seed: !!python/object/apply:os.system [ls]}", "train.seed: expected an integer"),
        (b"train: {seed: !secret x}", "train.seed: the tag !secret is not used in recipes"),
        (b"[" * 5000, "r.yaml: is nested too deeply"),
        (
            b"#" * (LARGEST_RECIPE_BYTES + 1),
            "r.yaml: has more than 1,000,000 bytes: a recipe is a file of a few kilobytes of YAML",
        ),
    ],
)
def test_not_a_recipe(tmp_path: Path, content: bytes, expected: str) -> None:
    (tmp_path / "r.yaml").write_bytes(content)
    with pytest.raises(RecipeError) as error:
        load_recipe(str(tmp_path / "r.yaml"))
    assert expected in str(error.value)


def test_folder(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").touch()
    with pytest.raises(RecipeError, match=r"is a folder, not a recipe\n    → name a file in it: .*a.yaml"):
        load_recipe(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dmeo", "dmeo: neither a shipped recipe nor a file\n    → did you mean demo?"),
        ("llama-60m-galore-8bits", "did you mean llama-60m-galore-8bit"),
        ("qqqqqqqqq", "neither a shipped recipe nor a file\n    → `galore recipes list` shows the shipped ones"),
        ("./demo.yaml", "./demo.yaml: no such file\n    → did you mean demo?"),
        ("mien.yaml", "mien.yaml: no such file\n    → did you mean mine.yaml?"),
        ("mine.yml", "did you mean mine.yaml?"),
        ("nowhere/mine.yaml", "nowhere/mine.yaml: no such file"),
    ],
)
def test_no_such_recipe(name: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.yaml").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError) as error:
        load_recipe(name)
    assert expected in str(error.value)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("runs/nosuch", "runs/nosuch: there is no such run or folder\n  → `galore runs` lists the runs"),
        ("runs/demo", "runs/demo: there is no such run or folder\n  → did you mean runs/demo-2? `galore runs` lists"),
        ("mine/recipe-a", "mine/recipe-a: no such file\n    → did you mean mine/recipe-a.yaml?"),
        ("runs/nosuch.yaml", "runs/nosuch.yaml: no such file"),
    ],
)
def test_no_such_run(name: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs" / "demo-2").mkdir(parents=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "recipe-a.yaml").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        load_recipe(name)
    assert expected in str(error.value)


def test_a_recipe_is_refused_where_a_model_is_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("owner/name", "gpt2", "runs/demo"):
        refuse_as_model(name)
    with pytest.raises(UserError, match=r"^demo: is a recipe, and no model\n.*demo, which `galore train demo` makes$"):
        refuse_as_model("demo")
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    (tmp_path / "runs" / "demo" / "recipe.yaml").touch()
    with pytest.raises(UserError, match=r"name its run: runs/demo$"):
        refuse_as_model("demo")
    (tmp_path / "demo").mkdir()
    refuse_as_model("demo")


def test_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, limit: int) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / "r.yaml").touch()
    monkeypatch.setattr(source, "read_bounded", refuse)
    with pytest.raises(RecipeError, match=r"r.yaml: cannot be read: Permission denied"):
        load_recipe(str(tmp_path / "r.yaml"))


def test_sources_of_data_are_relative_to_their_file_and_read_back_from_the_resolved_recipe(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(
        "extends: llama-60m-galore\ndata:\n  source: local\n  sources:\n"
        "    - {path: code, weight: 2}\n    - {path: [a, /b], name: c, validation_path: d, text_field: [t, u]}\n"
    )
    loaded = load_recipe(str(tmp_path / "r.yaml"))
    one, two = loaded.recipe.data.sources or []
    assert (one.path, one.weight, one.label) == (f"{tmp_path}/code", 2, "code")
    assert (two.path, two.validation_path) == ([f"{tmp_path}/a", "/b"], f"{tmp_path}/d")
    assert recipe_from_resolved(loaded.text, "x") == loaded.recipe
    assert load_recipe(str(tmp_path / "r.yaml"), ["data.path=x"]).recipe.data.sources is None
    assert load_recipe(str(tmp_path / "r.yaml"), ["data.sources=[{path: e}]"]).recipe.data.parts[0].path == str(
        Path.cwd() / "e"
    )


def test_sources_take_the_place_of_what_the_parent_reads_and_a_name_is_a_path_if_something_is_there(
    tmp_path: Path,
) -> None:
    (tmp_path / "org/set").mkdir(parents=True)
    sources = "[{name: org/set}, {name: org/far, weight: 2}, {path: a}, {source: hub, path: org/far}]"
    (tmp_path / "r.yaml").write_text(f"extends: llama-60m\ndata:\n  sources: {sources}\n")
    loaded = load_recipe(str(tmp_path / "r.yaml"))
    here, far, files, again = loaded.recipe.data.parts
    assert loaded.recipe.data.source == "local"
    assert [(part.source, part.hub_config) for part in (here, far, files, again)] == [
        ("hub", None), ("hub", None), ("local", None), ("hub", None),
    ]  # fmt: skip
    assert [part.path for part in (here, far, files, again)] == [
        f"{tmp_path}/org/set",
        "org/far",
        f"{tmp_path}/a",
        "org/far",
    ]
    assert loaded.recipe.data.labels == ["org/set", "org/far", "a", "far"]
    assert recipe_from_resolved(loaded.text, "x") == loaded.recipe


def test_a_recipe_whose_name_is_not_utf8_has_one_that_can_be_written(tmp_path: Path) -> None:
    file = tmp_path / "y\udcff.yaml"
    file.write_text("extends: demo")
    assert load_recipe(str(file)).name == "y\\udcff"
