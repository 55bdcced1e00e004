"""Recipes and overrides nobody would write: an error of the user's, soon, or a recipe that its resolved text says again."""

from __future__ import annotations

import random
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from galore.trainer.common.errors import UserError
from galore.trainer.recipe.explain.fields import fields, sections
from galore.trainer.recipe.load import LoadedRecipe, load_recipe, recipe_from_resolved
from galore.trainer.recipe.parse.source import parse
from galore.trainer.recipe.parse.syntax import dump_value
from galore.trainer.recipe.shipped import FOLDER, shipped_names

SEED, RECIPES, OVERRIDES = 20261126, 500, 500
SECONDS, ADDRESS_SPACE = 2.0, 4 * 2**30
LONGEST_MESSAGE = 20_000

SCALARS = [
    *("null", "~", "''", '""', "true", "yes", "on", "nan", ".nan", ".inf", "-.inf", "1e400", "1e-400", "-0.0", "1e308"),
    *("0", "-1", "010", "0o17", "0x1F", "0b1", "1_000", "1,5", "12:30", "2024", "2024-01-01", "1e3", "1.5e1", "3.0", "+7"),
    *(str(2**31), str(2**63), str(2**64), "9" * 30, "9" * 5000, "0x" + "f" * 5000, "1." + "0" * 500, "1e" + "9" * 20),
    *("a" * 300, "a" * 5000, "~nosuchuser/x", "~/x", "/dev/zero", "/proc/self/mem", "..", "../..", "/", ".", "*", "[x]*"),
    *('"\\0"', '"\\x07"', '"\\e[2J"', '"\\ud800"', '"\\u202e"', '"a\\nb"', '"\\t"', "\u2028", "\ufeff", "\x85", "\U0001f600"),
    *("&a x", "*a", "!!set {a}", "!!binary aGk=", "!x y", "<<", "{}", "[]", "[[[]]]", "{a: {b: c}}", "[1, two, null]"),
    *("{mlp: 0.5}", "{mlp:0.5}", "[self_attn, mlp]", "x: y: z", "- a", "|", ">-", "? a", "---", "...", "%YAML 1.1"),
    *("#", "'", '"', "`", "@", "%", "\t", "{", "]", "a #b", "'it''s'", "galore", "full", "lora", "0.25", "256"),
]  # fmt: skip


@contextmanager
def _bounded() -> Iterator[None]:
    """Two seconds of the processor, 4 GB of address space."""

    def late(*_: object) -> None:
        raise AssertionError("it takes too long")

    limits, before = resource.getrlimit(resource.RLIMIT_AS), signal.signal(signal.SIGVTALRM, late)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (max(ADDRESS_SPACE, used + 2**30), limits[1]))
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, limits)


def _try(load: Callable[[], LoadedRecipe], shown: str) -> bool:
    """Whether it loads. Fails the test for any other end than an error that fits a screen, or a recipe that reads back."""
    try:
        with _bounded():
            loaded = load()
            again = recipe_from_resolved(loaded.text, "again")
    except UserError as error:
        text = str(error)
        assert len(text) < LONGEST_MESSAGE, shown
        assert all(letter.isprintable() or letter == "\n" for letter in text), shown
        return False
    except Exception as error:
        raise AssertionError(f"{type(error).__name__}: {error}\n{shown}") from error
    assert again == loaded.recipe, shown
    loaded.text.encode()
    return True


def _letter(rng: random.Random) -> str:
    return chr(
        rng.choice([rng.randrange(32, 127), rng.randrange(0x100), rng.randrange(0xD800), rng.randrange(0x110000)])
    )


def _mutated(text: str, rng: random.Random) -> str:
    """`text` after one to four slips of a hand that means no good."""
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        lines = text.split("\n")
        row, place = rng.randrange(len(lines)), rng.randrange(len(text) + 1)
        match rng.randrange(9):
            case 0:
                text = text[:place] + _letter(rng) + text[place + rng.randint(0, 1) :]
            case 1:
                text = text[:place] + text[place + rng.randint(1, 40) :]
            case 2:
                lines.insert(row, rng.choice(lines))
                text = "\n".join(lines)
            case 3:
                lines[row] = " " * rng.randrange(5) + lines[row].lstrip()
                text = "\n".join(lines)
            case 4:
                text = text[:place] + rng.choice(SCALARS) + text[place:]
            case 5:
                section, name = rng.choice(list(fields())).split(".")
                text += f"\n{section}: {{{name}: {rng.choice(SCALARS)}}}\n"
            case _:
                keyed = [number for number, line in enumerate(lines) if ":" in line and not line.startswith("#")]
                if keyed:
                    row = rng.choice(keyed)
                    lines[row] = lines[row].split(":")[0] + ": " + rng.choice(SCALARS)
                text = "\n".join(lines)
    return text


def test_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rng = random.Random(SEED)
    texts = [(FOLDER / f"{name}.yaml").read_text(encoding="utf-8") for name in shipped_names()]
    file, loaded = tmp_path / "r.yaml", 0
    for _ in range(RECIPES):
        text = _mutated(rng.choice(texts), rng)
        file.write_bytes(text.encode("utf-8", "surrogatepass"))
        loaded += _try(lambda: load_recipe(str(file)), repr(text[-3000:]))
    assert RECIPES / 20 < loaded < RECIPES


def _override(rng: random.Random) -> str:
    path, value = rng.choice(list(fields())), rng.choice(SCALARS)
    if rng.random() < 0.1:
        path = rng.choice(
            ["", ".", "=", "extends", rng.choice(sections()), f"{path}.x", f".{path}", "x.hf_token", "tasks"]
        )
    text = f"{path}={value}"
    if rng.random() < 0.3:
        place = rng.randrange(len(text))
        text = text[:place] + _letter(rng) + text[place + rng.randint(0, 1) :]
    return text.replace("\0", "")  # which no command line can hold


def test_overrides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rng, loaded = random.Random(SEED), 0
    names = shipped_names()
    for _ in range(OVERRIDES):
        name, overrides = rng.choice(names), [_override(rng) for _ in range(rng.choice([1, 1, 2, 4]))]
        loaded += _try(lambda name=name, given=overrides: load_recipe(name, given), f"{name} {overrides!r}"[:3000])
    assert OVERRIDES / 100 < loaded < OVERRIDES


def test_every_text_is_written_so_that_it_is_read_back() -> None:
    rng = random.Random(SEED)
    parts = [*SCALARS[:80], *"\"'\\ \t\n\r\x85\u2028\u2029\ufeff\x07\x7f\xa0\u200b\ue000:#-?!&*|>%@`,{}[]~=."]
    for _ in range(400):
        text = "".join(rng.choice(parts) for _ in range(rng.randint(0, 5)))
        for value in (text, [text, "x"], {text: 1}):
            layer = parse(f"a:\n  b: {dump_value(value)}\n  c: 1\n", "x", Path())
            assert (layer.values, layer.problems) == ({"a": {"b": value, "c": 1}}, [])


# What once went wrong.


@pytest.mark.parametrize("name", ["a\x07b", "a\nb", "a\u2028b", "a\x1b[2Jb", "a\udcffb"])
def test_a_file_of_any_name(tmp_path: Path, name: str) -> None:
    file = tmp_path / f"{name}.yaml"
    file.write_text("data: {source: packaged}\ntrain: {max_steps: 1}\n")
    assert _try(lambda: load_recipe(str(file)), repr(name))


def test_a_folder_that_is_not_utf_8(tmp_path: Path) -> None:
    folder = tmp_path / "a\udcffb"
    folder.mkdir()
    (folder / "r.yaml").write_text("data: {path: x.txt}\ntrain: {max_steps: 1}\n")
    assert not _try(lambda: load_recipe(str(folder / "r.yaml")), "")


@pytest.mark.parametrize(
    "value",
    [
        "[" + "0x" + "f" * 5000 + "]",
        "[" + "9" * 5000 + "]",
        "9" * 5000,
        '"\\ud800"',
        "~nosuchuser/x",
        "a" * 300,
        "a\x85\u2028",
    ],
)
@pytest.mark.parametrize("path", ["data.path", "data.tokenizer", "optim.target_modules", "optim.rank", "log.run_name"])
def test_values_that_once_ended_in_a_traceback(path: str, value: str) -> None:
    _try(lambda: load_recipe("demo", ["data.source=local", "data.path=x", f"{path}={value}"]), f"{path}={value}"[:200])


def test_a_folder_whose_name_is_a_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for written in ("2024", "1e3", "0x10", "true", "3.0"):
        recipe = load_recipe("demo", ["data.source=local", f"data.path={written}", f"log.run_name={written}"]).recipe
        assert (recipe.data.path, recipe.log.run_name) == (str(tmp_path / written), written)
