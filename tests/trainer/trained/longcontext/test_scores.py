"""A loss is computed once, and the file of another search is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from galore.trainer.common.errors import UserError
from galore.trainer.trained.longcontext.scores import Scores


def never() -> float:
    raise AssertionError


def test_a_loss_is_computed_once(tmp_path: Path) -> None:
    scores = Scores.of(tmp_path / "scores.json", {"seed": 1})
    assert scores.loss("a", lambda: 2.5) == 2.5
    assert Scores.of(tmp_path / "scores.json", {"seed": 1}).loss("a", never) == 2.5


def test_another_search_is_refused_with_what_differs(tmp_path: Path) -> None:
    Scores.of(tmp_path / "scores.json", {"seed": 1}).loss("a", lambda: 2.5)
    with pytest.raises(UserError, match="holds another search: seed was 1, and is 2"):
        Scores.of(tmp_path / "scores.json", {"seed": 2})


@pytest.mark.parametrize(
    "text", ["", "[]", '{"search": 1, "losses": 3}', '{"losses": {}}', '{"search": {}, "losses": {"a": []}}']
)
def test_a_broken_file_is_one_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "scores.json").write_text(text)
    with pytest.raises(UserError, match=r"scores\.json"):
        Scores.of(tmp_path / "scores.json", {"seed": 1})
