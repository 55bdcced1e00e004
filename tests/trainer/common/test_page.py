"""A page is a template filled in once, and data that no string in it can leave."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from galore.trainer.common.page import STYLE, as_script, filled, read_part


def test_values_stand_in_their_places_and_are_not_filled_in_again(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("<style>{{style}}</style><p>{{a}} {{b}}</p>\n")
    made = filled(tmp_path / "page.html", {"a": "{{b}}", "b": "2", "style": "p {}"})
    assert made.endswith("p {}</style><p>{{b}} 2</p>")
    assert made.startswith(f"<style>{read_part(STYLE)}")
    with pytest.raises(KeyError):
        filled(tmp_path / "page.html", {"a": "", "style": ""})


def test_data_cannot_end_its_script() -> None:
    document = {"name": "</script><!-- &amp; é"}
    text = as_script(document)
    assert not set("<>&é") & set(text)
    assert json.loads(text) == document
    with pytest.raises(ValueError, match="not JSON compliant"):
        as_script(float("nan"))
