"""The verbs and their options are a promise: a change of them must be meant."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import typer.main

from galore.cli.arguments import at_home
from galore.cli.main import app

GOLDEN = Path(__file__).parents[1] / "golden" / "cli.txt"


def surface(command: Any, path: str = "galore") -> Iterator[str]:
    parameters = [_word(each) for each in command.params if each.name not in ("install_completion", "show_completion")]
    yield " ".join([path, *parameters])
    for name, verb in sorted(getattr(command, "commands", {}).items()):
        yield from surface(verb, f"{path} {name}")


def _word(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        word = parameter.name.upper() + ("..." if parameter.nargs == -1 else "")
    else:
        word = "|".join(parameter.opts) + ("" if getattr(parameter, "is_flag", False) else "=")
    return word if parameter.required else f"[{word}]"


def settings_of(*kinds: type) -> Iterator[tuple[str, Any]]:
    """(name, settings) of every option and argument of these kinds."""
    groups = [app, *(each.typer_instance for each in app.registered_groups)]
    for callback in (each.callback for group in groups if group for each in group.registered_commands):
        for name, hint in get_type_hints(callback, include_extras=True).items():
            kind, *settings = get_args(hint) if hasattr(hint, "__metadata__") else (hint,)
            if settings and set(kinds) & {kind, *get_args(kind)}:
                yield name, settings[0]


def test_every_number_of_the_command_line_has_two_ends() -> None:
    """Without an upper one a slip of the finger is a run without end, or a memory error."""
    found = dict(settings_of(int, float))
    assert {"max_new_tokens", "max_tokens", "max_train_samples", "temperature"} <= set(found)
    assert [name for name, option in found.items() if None in (option.min, option.max)] == []


def test_numbers_beyond_their_ends_are_refused_in_words(galore: Any) -> None:
    for option, value in (
        ("--max-new-tokens", "1000000000"),
        ("--temperature", "nan"),
        ("--temperature", "inf"),
        ("--temperature", "1e-30"),
        ("--top-p", "nan"),
        ("--seed", str(2**64)),
    ):
        refused = galore("generate", "gpt2", "--prompt", "x", option, value)
        assert refused.exit_code == 2, refused.output
        assert option in refused.stderr


def numbers(command: Any, *path: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """(words of a verb, option) of every option that is a number."""
    hints = get_type_hints(inspect.unwrap(command.callback)) if command.callback and path else {}
    for each in command.params:
        if each.param_type_name == "option" and {int, float} & {hints.get(each.name), *get_args(hints.get(each.name))}:
            yield path, each.opts[0]
    for name, verb in getattr(command, "commands", {}).items():
        yield from numbers(verb, *path, name)


NUMBERS = list(numbers(typer.main.get_command(app)))
assert len(NUMBERS) > 20


@pytest.mark.parametrize(
    ("path", "option"), NUMBERS, ids=lambda each: "-".join(each) if isinstance(each, tuple) else each
)
def test_what_is_no_number_is_told_with_its_value(galore: Any, path: tuple[str, ...], option: str) -> None:
    for words in ((option, "many"), (f"{option}=many",)):
        refused = galore(*path, *words)
        assert refused.exit_code == 2, refused.output
        assert option in refused.stderr
        assert "many" in refused.stderr


def test_of_an_option_that_is_given_twice_the_last_value_is_told(galore: Any) -> None:
    refused = galore("profile-memory", "--gpus", "2", "--gpus", "many", "--", "demo")
    assert "'many'" in " ".join(refused.stderr.replace("│", "").split())
    assert "'2'" not in refused.stderr


def test_what_is_no_choice_is_told_in_plain_words(galore: Any) -> None:
    refused = galore("profile-memory", "demo", "--parallel", "alone")
    assert refused.exit_code == 2
    assert "'alone' is not one of 'auto', 'ddp', 'fsdp'" in " ".join(refused.stderr.replace("│", "").split())
    assert "Value error" not in refused.stderr


def test_every_path_of_the_command_line_may_begin_at_home() -> None:
    """A shell leaves `--output-dir=~/x` as it is."""
    paths = dict(settings_of(Path))
    assert {"output_dir", "out", "file", "fit", "include_path"} <= set(paths)
    assert [name for name, option in paths.items() if option.callback is not at_home] == []


def test_a_run_goes_home(galore: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    assert galore("recipes", "copy", "demo", "~/mine.yaml").exit_code == 0
    assert galore("recipes", "schema", "--output=~/schema.json").exit_code == 0
    assert {each.name for each in (tmp_path / "home").iterdir()} == {"mine.yaml", "schema.json"}
    assert not (tmp_path / "~").exists()


def test_surface() -> None:
    found = "\n".join(surface(typer.main.get_command(app))) + "\n"
    assert found == GOLDEN.read_text(encoding="utf-8"), f"if it is meant, write this to {GOLDEN}:\n{found}"
