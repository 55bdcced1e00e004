"""A wrong value is answered with what was expected, what was found as it was written, and what to write instead."""

from __future__ import annotations

import pytest

from galore.trainer.recipe.explain.values import LONGEST_VALUE, read_as_meant, shown, validate
from galore.trainer.recipe.overrides import parse_overrides
from galore.trainer.recipe.parse.problems import Problem

WHOLE = ("data.source=packaged", "train.max_steps=3")


def problems(*overrides: str, forgiven: frozenset[str] = frozenset()) -> list[Problem]:
    layer = parse_overrides(overrides)
    assert not layer.problems
    recipe, found = validate(layer, set(forgiven))
    assert forgiven or (recipe is None) == bool(found)
    return found


def test_a_good_recipe_has_no_problems() -> None:
    assert problems(*WHOLE) == []


@pytest.mark.parametrize(
    ("override", "found", "fix"),
    [
        ("train.max_steps=10k", "got '10k'", "write 10000"),
        ("train.max_steps='10,000'", "got '10,000'", "write 10000"),
        ("train.max_steps='10,00'", "got '10,00'", ""),
        ("train.max_steps=0.5k", "got '0.5k'", "write 500"),
        ("train.max_steps=ten", "got 'ten'", ""),
        ("train.max_steps=true", "got true", ""),
        ("train.max_steps=.inf", "got .inf", ""),
        ("optim.method=galor", "got 'galor'", "write galore"),
        ("optim.target_modules=mlp", "got 'mlp'", "write [mlp]"),
        ("optim.rank_pattern={mlp:0.5}", "", "write {mlp: 0.5}, with a space after the colon"),
    ],
)
def test_what_was_found_and_what_to_write(override: str, found: str, fix: str) -> None:
    (problem,) = problems(*WHOLE, override)
    assert problem.key == override.partition("=")[0]
    assert problem.what.startswith("expected ")
    assert found in problem.what
    assert problem.fix.startswith(fix)
    assert bool(problem.fix) == bool(fix)


def test_all_that_is_wrong_is_told_at_once() -> None:
    found = problems("data.source=packaged", "optim.rank=-1", "optim.learning_rate=x")
    assert {each.key for each in found} >= {"optim.rank", "optim.learning_rate", "train"}


def test_a_missing_section_says_what_to_add() -> None:
    (problem,) = problems("data.source=packaged")
    assert (problem.key, problem.what) == ("train", "this section is missing")
    assert "max_steps" in problem.fix


def test_what_was_given_under_a_wrong_name_is_not_missed() -> None:
    assert problems("data.source=packaged", "train.seed=1")
    assert problems("data.source=packaged", "train.seed=1", forgiven=frozenset({"train.max_steps"})) == []


def test_unquoted_numbers_are_text_where_text_is_asked_for() -> None:
    layer = parse_overrides(["data.path=2024", "log.run_name=0012", "train.max_steps=3"])
    read_as_meant(layer)
    assert layer.values == {"data": {"path": "2024"}, "log": {"run_name": "0012"}, "train": {"max_steps": 3}}


@pytest.mark.parametrize(
    "wrong",
    [
        "optim.rank=true",
        "optim.learning_rate=.nan",
        "optim.learning_rate=.inf",
        f"optim.learning_rate={10**400}",
        "optim.rank_pattern={q_proj: false}",
        "model.new_tokens={image: true}",
        "log.profile_steps=[true, 3]",
        "train.loss_weights={image: true}",
        "train.position_skips={target_length: true}",
        "extra_loss.layers=[true]",
        "eval.sample_tokens=true",
    ],
)
def test_no_boolean_is_a_number_nor_what_is_infinite(wrong: str) -> None:
    found = [each.what for each in problems("data.source=packaged", "train.max_steps=3", wrong)]
    assert found
    assert all("expected" in what for what in found)


@pytest.mark.parametrize("right", ["data.shuffle=true", "train.gradient_checkpointing=true"])
def test_booleans_are_values_where_a_field_takes_them(right: str) -> None:
    assert not any("expected" in each.what for each in problems("data.source=local", "train.max_steps=3", right))


def test_what_has_no_space_after_its_colon_is_not_missed_as_well() -> None:
    found = problems("data.source=packaged", "train.max_steps=3", "train.length_stages=[{max_length:16,steps: 2}]")
    assert [each.what for each in found] == ["there is no key `max_length:16`"]


def test_values_are_shown_as_written_and_cut() -> None:
    assert shown("a") == "'a'"
    assert shown(1e-3, "1.0e-3") == "1.0e-3"
    assert shown({"ä": None}) == '{"ä": null}'
    assert len(shown("x" * 500)) == LONGEST_VALUE
    assert shown("x" * 500).endswith("…")


SEVERAL = ("data.source=local", "train.max_steps=3")


@pytest.mark.parametrize(
    ("sources", "key", "what", "fix"),
    [
        ("[{path: a, wieght: 2}]", "data.sources.0", "there is no key `wieght`", "write weight"),
        ("[{path: a}, {weight: 2}]", "data.sources.1", "it names nothing: give it a path, or the name of", ""),
        ("[{path: a, weight: -1}]", "data.sources.0.weight", "expected a number > 0, got -1", ""),
        ("[{path: a, format: jsnl}]", "data.sources.0.format", "expected one of auto, txt, jsonl", ""),
        ("[a]", "data.sources.0", "expected a mapping such as {path: …, name: …, weight: …}, got 'a'", ""),
        (
            "a",
            "data.sources",
            "expected a list of mappings or null, got 'a'",
            "write [{path: a}], or [{name: a}] for a data set",
        ),
        ("[{name: a, subset: en}]", "data.sources.0", "there is no key `subset`", "write hub_config"),
        (
            "[{dataset: a/b}]",
            "data.sources.0",
            "there is no key `dataset`",
            "write name for a data set of the hub, path for files",
        ),
        ("[{hub: a/b}]", "data.sources.0", "there is no key `hub`", "write name"),
        ("[{path: a, weight:2}]", "data.sources.0", "there is no key `weight:2`", "after the colon: `weight: 2`"),
        ("[]", "data.sources", "expected a list of mappings of 1 item or more or null, got []", ""),
        ("[{path: a, weight: true}]", "data.sources.0.weight", "expected a number > 0, got true", ""),
        ("[{path: a, delimiter: ';;'}]", "data.sources.0.delimiter", "text of at most 1 letter or null, got ';;'", ""),
    ],
)
def test_what_is_wrong_within_an_item_of_a_list_says_which(sources: str, key: str, what: str, fix: str) -> None:
    (found,) = problems(*SEVERAL, f"data.sources={sources}")
    assert found.key == key
    assert what in found.what
    assert fix in found.fix


@pytest.mark.parametrize(
    ("override", "key", "what"),
    [
        ("data.delimiter=;;", "data.delimiter", "expected text of at most 1 letter or null, got ';;'"),
        ("data.text_field=[]", "data.text_field", "expected text or a list such as [a, b] of 1 item or more, got []"),
        ("model.new_tokens=[a, a]", "model.new_tokens", "a token stands in it twice: leave one out"),
        ("model.new_tokens=[' ']", "model.new_tokens", "' ' is white space, or has a NUL byte in it"),
        (f"model.new_tokens=[{'x' * 999}]", "model.new_tokens.0", "String should have at most 200 characters, got"),
    ],
)
def test_a_rule_of_a_field_is_told_and_not_its_type(override: str, key: str, what: str) -> None:
    (found,) = problems(*WHOLE, override)
    assert found.key == key
    assert found.what.startswith(what)
    assert len(str(found)) < 600
