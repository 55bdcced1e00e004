"""Options that cannot be meant together: each is found, and told in the words of whoever asks."""

from __future__ import annotations

import dataclasses

import pytest

from galore.kernels.contradiction import ANYWHERE, IN_A_SUBSPACE, WITHOUT_ONE, contradiction
from galore.kernels.family import Options


def written(name: str, value: object) -> str:
    return f"<{name} {value}>"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clipped(Options):
    """As an optimizer and a recipe have it beside the options of the family."""

    max_grad_norm: float | None = None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (Options(inner="muon", convention="reference"), "<convention reference> is that of the official AdamW"),
        (Clipped(update="immediate", max_grad_norm=2.0), "to <max_grad_norm 2.0>: set <max_grad_norm None>, or"),
        (
            Options(update="immediate", gradient_sums="host"),
            "leave out <gradient_sums host>, or set <update accumulate>",
        ),
        (Options(transport="rotate", proj_type="random"), "<proj_type random> has none: take keep or reset"),
        (Options(update="immediate", refresh="summed"), "<refresh summed> cannot: take first-micro-batch"),
        (Options(proj_type="svd", refresh="two-pass"), "with <proj_type svd> take summed or first-micro-batch"),
        (Options(proj_type="random", refresh="two-pass"), "<proj_type random> they are drawn: set <refresh None>"),
        (Options(refresh="two-pass"), "<stagger True> nearly every step is one: set <stagger False>, or"),
        (Options(proj_type="random", refresh_overlap=0.5), "<refresh_overlap 0.5> compares bases"),
        (Options(convention="reference"), "by <proj_type randomized> with <stagger True>: set <stagger False>"),
        (Options(convention="reference", stagger=False, proj_type="dct"), "by <proj_type dct>"),
        (Options(transport="complete"), "and <residual none> keeps none: take rotate"),
        (
            Options(transport="complete", residual="fira", proj_type="random"),
            "<proj_type random> has none: take keep or reset",
        ),
        (Options(inner="scale"), "<inner scale> is of whole gradients"),
        (Options(residual="joint"), "<residual joint> orthogonalizes a momentum"),
        (Options(residual="sampled"), "and <inner adamw> is another rule: set <inner muon>"),
        (Options(inner="normuon"), "<residual none> gives it a part: set <residual joint-4bit>"),
        (
            Options(inner="normuon", residual="joint-4bit", proj_type="random"),
            "<proj_type random> draws another one: take a subspace",
        ),
        (Options(residual_scale=0.5), "where <residual none> takes nothing apart: set <residual_scale None>"),
        (Options(switch=0.5, proj_type="dct"), "<switch 0.5> keeps the leading vectors"),
        (Options(residual="fira", refresh="delayed"), "not what <refresh delayed> says: set <refresh None>"),
    ],
)
def test_a_contradiction_is_told_in_the_words_of_whoever_asks(options: Options, said: str) -> None:
    assert said in str(contradiction(options, True, written))
    everywhere = options.inner == "muon" or isinstance(options, Clipped) or options.gradient_sums == "host"
    assert (contradiction(options, False, written) is not None) == everywhere


def test_what_contradicts_only_without_a_subspace() -> None:
    assert "<inner sumo> works in a subspace" in str(contradiction(Options(inner="sumo"), False, written))
    assert contradiction(Options(inner="sumo"), True, written) is None


def test_every_contradiction_is_seen_by_a_test_above_and_no_default_is_one() -> None:
    assert len(ANYWHERE + IN_A_SUBSPACE + WITHOUT_ONE) == 20
    assert contradiction(Options(), True, written) is None
    assert contradiction(Options(update="immediate", refresh=None), True, written) is None
