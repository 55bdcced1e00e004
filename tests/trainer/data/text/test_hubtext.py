"""A streamed data set in two parts: what is held out is never trained on, and the scan for it has an end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from galore.trainer.common.errors import UserError
from galore.trainer.data.text import hubtext
from galore.trainer.data.text.hub import HubSplit
from galore.trainer.data.text.hubtext import HubText
from galore.trainer.data.text.quality import BadRow, BadRows
from galore.trainer.recipe.schema.data import DataSection

SPLITS = {"train": [f"document {n}" for n in range(200)], "validation": ["held 0", "document 3", "held 1"]}


def silent(done: int, total: int, what: str) -> None:
    return None


@pytest.fixture(autouse=True)
def _stored(monkeypatch: pytest.MonkeyPatch) -> None:
    def texts(split: HubSplit, state: Any, bad: BadRows) -> Iterator[tuple[str, dict[str, int]]]:
        bad.add(BadRow("empty"), split.split)
        for row, text in enumerate(SPLITS[split.split], start=1):
            if state is None or row > state["row"]:
                yield text, {"row": row}

    monkeypatch.setattr(HubSplit, "texts", texts)


def made(**settings: Any) -> HubText:
    section = DataSection.model_validate({"source": "hub", "path": "c4", **settings})
    return HubText.of(section, Path())


def share(**settings: Any) -> HubText:
    return made(validation_split=None, validation_fraction=0.2, **settings)


def trained(texts: HubText, state: Any = None) -> list[str]:
    return [text for text, _ in texts.training(state)]


def test_a_files_setting_is_refused() -> None:
    section = DataSection.model_construct(source="hub", path="c4", validation_path="held.txt")
    with pytest.raises(UserError, match="is for local files") as caught:
        HubText.of(section, Path())
    assert caught.value.where == "data.validation_path"


def test_of_a_validation_split_no_content_is_trained_on() -> None:
    texts = made()
    assert texts.holds_out
    assert texts.held_out(None, silent) == SPLITS["validation"]
    assert trained(texts) == [text for text in SPLITS["train"] if text != "document 3"]
    assert texts.holdout.num_dropped == 1


def test_what_a_run_has_left_out_so_far_it_leaves_out_on() -> None:
    texts = made()
    texts.held_out(None, silent)
    texts.hold_out(1)
    assert trained(texts) == SPLITS["train"]
    texts.hold_out(2)
    assert trained(texts) == [text for text in SPLITS["train"] if text != "document 3"]
    assert (texts.holdout.num_reserved, texts.bad.summary) == (2, made_and_read().bad.summary)


def made_and_read() -> HubText:
    texts = made()
    texts.held_out(None, silent)
    trained(texts)
    trained(texts)
    return texts


def test_without_one_a_share_of_the_contents_is_held_out() -> None:
    texts = share()
    held = texts.held_out(None, silent)
    assert 20 < len(held) < 60
    assert sorted([*held, *trained(texts)]) == sorted(SPLITS["train"])


def test_no_share_holds_nothing_out() -> None:
    texts = made(validation_split=None, validation_fraction=0.0)
    assert not texts.holds_out
    assert texts.held_out(None, silent) == []
    assert trained(texts) == SPLITS["train"]


def test_reading_ends_when_there_are_tokens_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    held = share().held_out(4, lambda done, total, what: told.append(done))
    assert len(held) == 3  # 24 letters, of ten or so each
    assert told[-1] == sum(map(len, held)) >= 24
    monkeypatch.setattr(hubtext, "SCANNED_DOCUMENTS", 50)
    assert all(int(text.split()[1]) < 50 for text in share().held_out(None, silent))


def test_training_goes_on_after_a_state() -> None:
    texts = share()
    whole = list(texts.training(None))
    assert trained(texts, whole[9][1]) == [text for text, _ in whole[10:]]


def test_bad_rows_are_counted_where_they_are_trained_on_only() -> None:
    texts = share()
    texts.held_out(None, silent)
    list(texts.tokenizer_sample(silent))
    list(texts.uncounted().training(None))
    assert texts.bad.counts == {}
    trained(texts)
    assert texts.bad.counts == {"empty": 1}


def test_drops_of_another_reading_are_not_counted_again() -> None:
    texts = made()
    texts.held_out(None, silent)
    assert "document 3" not in trained(texts.uncounted())
    assert texts.holdout.num_dropped == 0


def test_the_sample_of_a_tokenizer_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hubtext, "TOKENIZER_TRAINING_CHARS", 55)
    sample = list(share().tokenizer_sample(silent))
    assert sum(map(len, sample[:-1])) < 55 <= sum(map(len, sample))
    assert not {*sample} & {*share().held_out(None, silent)}
