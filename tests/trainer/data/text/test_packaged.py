from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from galore.trainer.common.errors import UserError
from galore.trainer.data.text import packaged
from galore.trainer.data.text.quality import BadRows
from galore.trainer.data.text.sources import training_corpus
from galore.trainer.recipe.schema.data import DataSection


@pytest.mark.skipif(importlib.util.find_spec("bible") is None, reason="the extra `demo` is not installed")
def test_chapters_without_importing_the_package(tmp_path: Path) -> None:
    before = set(sys.modules)
    bad = BadRows("error")
    texts = [document.text for document in training_corpus(DataSection(source="packaged"), tmp_path).documents(bad)]
    assert len(texts) == 1189
    assert texts[0].startswith("In the beginning God created the heaven and the earth.\nAnd the earth")
    assert texts[-1].endswith("be with you all. Amen.")
    assert "bible" not in set(sys.modules) - before


def test_the_extra_is_named_when_it_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packaged.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'galore-llm\[demo\]'"):
        packaged.packaged_file()
