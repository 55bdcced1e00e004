"""`galore profile-memory --fastest`: what it shows, writes and draws, of a search whose result is made up."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from galore.cli.show.fastest import _pace
from galore.trainer.fit.search import fastest as module
from galore.trainer.fit.search import measured
from galore.trainer.fit.search.fastest import Choice, Fastest
from galore.trainer.fit.search.picture import front, picture
from galore.trainer.time.estimate import Estimate, Part, Step

GIB = 2**30
pytestmark = pytest.mark.usefixtures("traced_recipes")


def choice(seconds: float, gib: float, fits: bool = True, **settings: object) -> Choice:
    part = Part()
    part.add("product", seconds)
    step = Step({"forward": part})
    estimate = Estimate((step, step), None, 0.0, 1000, None, None, "made up")
    return Choice({f"train.{name}": value for name, value in settings.items()}, estimate, round(gib * GIB), fits, True)


BEST, SECOND = choice(1.0, 20.0, micro_batch_size=4, gradient_checkpointing=3), choice(1.1, 18.0, micro_batch_size=2)
AS_IT_IS, TOO_LARGE = choice(1.5, 15.0), choice(0.8, 30.0, fits=False, gradient_checkpointing=False)
OTHERWISE = choice(0.8, 19.0, micro_batch_size=4, gradient_checkpointing=3, fused="auto")
FOUND = Fastest("a card", 24 * GIB, AS_IT_IS, BEST, SECOND, (OTHERWISE,), (AS_IT_IS, SECOND, BEST, TOO_LARGE), 12, 3)


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.Search, "run", lambda self: FOUND)


def profile(galore: Any, *arguments: str) -> Any:
    done = galore("profile-memory", "tiny.yaml", "--fastest", *arguments)
    assert done.exit_code == 0, done.output
    return done


@pytest.mark.usefixtures("found")
def test_the_best_the_second_and_the_recipe_as_it_is(galore: Any) -> None:
    words = " ".join(profile(galore, "--gpu", "rtx4090").stdout.split())
    assert "fastest 1.00 s 1,000 20.00 yes train.micro_batch_size=4 train.gradient_checkpointing=3" in words
    assert "second best 1.10 s 909 18.00 yes train.micro_batch_size=2" in words
    assert (
        "rounded otherwise 0.80 s 1,250 19.00 yes train.micro_batch_size=4 train.gradient_checkpointing=3 train.fused=auto"
        in words
    )
    assert (
        "and +25% tokens/s here. To choose with it: the same command, and behind it train.fused=auto 4 choices" in words
    )
    assert "the recipe as it is 1.50 s 667 15.00 yes" in words
    assert "+50% tokens/s for 5.00 GiB more memory; the results are the same." in words
    assert "The second best takes 10.0% longer and needs 2.00 GiB less." in words
    assert "4 choices, known from 12 traces of few blocks and 3 of all: made up." in words


def test_a_step_of_milliseconds_is_told_in_them() -> None:
    short = choice(0.0042, 1.0)
    assert _pace(short)[0] == "4.20 ms"
    assert _pace(replace(short, measured=0.0051))[0] == "5.10 ms measured"


@pytest.mark.usefixtures("found")
def test_the_recipe_is_written_and_replaced_only_when_told(galore: Any) -> None:
    profile(galore, "--gpu", "rtx4090", "--fit", "fast.yaml", "train.global_batch_size=8", "train.micro_batch_size=1")
    text = Path("fast.yaml").read_text()
    assert "micro_batch_size: 4" in text
    for extra in ((), ("--fastest",)):
        refused = galore("profile-memory", "tiny.yaml", *extra, "--gpu", "rtx4090", "--fit", "fast.yaml")
        assert refused.exit_code == 2
        assert "fast.yaml exists already" in refused.stderr
    assert Path("fast.yaml").read_text() == text
    profile(galore, "--gpu", "rtx4090", "--fit", "fast.yaml", "--force", "train.global_batch_size=16")
    assert Path("fast.yaml").read_text() != text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.usefixtures("found")
def test_the_card_that_nobody_chose_is_told_of_first(galore: Any) -> None:
    shown = profile(galore, "train.device=auto").stdout
    assert shown.startswith("The figures below are for one NVIDIA GeForce RTX 4090, since torch finds no GPU here;")


@pytest.mark.usefixtures("found")
def test_as_json_and_as_pictures(galore: Any) -> None:
    found = json.loads(profile(galore, "--gpu", "rtx4090", "--json").stdout)
    assert found["best"]["settings"] == ["train.micro_batch_size=4", "train.gradient_checkpointing=3"]
    assert found["limit_bytes"] == 24 * GIB
    assert len(found["tried"]) == 4
    pytest.importorskip("matplotlib")
    profile(galore, "--gpu", "rtx4090", "--plot", "choices.png")
    assert Path("choices.png").read_bytes().startswith(b"\x89PNG")


def test_the_picture_says_which_is_which() -> None:
    pytest.importorskip("matplotlib")
    text = picture(FOUND, "of a recipe", "svg").decode()
    for words in ("a card: 24.0 GiB", "does not fit", "the recipe as it is", "predicted seconds per step"):
        assert words in text, words
    assert "chosen: train.micro_batch_size=4 train.gradient_checkpointing=3" in text
    assert front(FOUND.tried) == [AS_IT_IS, SECOND, BEST, TOO_LARGE]
    slower = choice(2.0, 19.0)
    assert slower not in front([*FOUND.tried, slower])


def test_the_fastest_by_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second best is measured faster: then it is the best."""
    seconds = {id(BEST): 3.0, id(SECOND): 2.0, id(AS_IT_IS): 2.5}
    monkeypatch.setattr(measured, "_seconds", lambda loaded, choice, device: seconds[id(choice)])
    found = measured.by_measurement(None, FOUND)  # type: ignore[arg-type]
    assert [each and each.measured for each in (found.best, found.second, found.shipped)] == [2.0, 2.5, 2.5]
    assert found.best.settings == SECOND.settings
    assert measured.of_share(BEST.estimate, 0.25) == 0.25


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--fastest", "--compare"], "error: --fastest: goes with the plain profile only"),
        (["--fastest", "--gpus", "2"], "error: --fastest: goes with the plain profile only"),
        (["--fastest", "--timeline", "x.html"], "error: --fastest: goes with the plain profile only"),
        (["--fastest", "--gpu", "12GB"], "error: --fastest: how fast a GPU with 12 GB computes is not known"),
        (["--fastest", "--measure", "--gpu", "rtx4090"], "error: --measure: --fastest measures on the CPU only"),
        (["--fastest", "--plot", "x.pdf"], "error: --plot: x.pdf is neither .png nor .svg"),
        (["--fastest", "--plot", "no/x.png"], "error: --plot: there is no folder no"),
        (["--plot", "x.png"], "error: --plot: draws what --fastest tried"),
        (["--fit", "--fastest"], "error: --fit: names no file"),
        (["--fastest", "--fit", "x.json"], "error: --fit: x.json is no .yaml"),
    ],
)
def test_refused(galore: Any, arguments: list[str], line: str) -> None:
    refused = galore("profile-memory", "tiny.yaml", *arguments)
    assert refused.exit_code == 2
    assert refused.stderr.splitlines()[0].startswith(line)
    assert refused.stdout == ""


def test_a_search_for_real(galore: Any) -> None:
    small = ("train.global_batch_size=2", "train.micro_batch_size=1", "--gpu", "rtx4090")
    words = " ".join(profile(galore, *small).stdout.split())
    assert re.search(r"fastest [0-9.–]+ ms ", words)
    assert "train.micro_batch_size=2" in words
