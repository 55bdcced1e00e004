"""Passkeys: the text has the length and depth that are asked for, and greedy generation and the score agree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import processors
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from galore.trainer.common.errors import UserError
from galore.trainer.data.tokens.tokenizer import prompt_of
from galore.trainer.trained.longcontext.passkey import FILLER, INTRO, _prompt, passkey_row, passkey_text, passkeys


@pytest.fixture
def tokenizer(trained: tuple[Path, Path]) -> Any:
    return AutoTokenizer.from_pretrained(trained[0])


def test_the_key_stands_at_its_depth(tokenizer: Any) -> None:
    text = passkey_text(12345, 3, 1)
    assert text.endswith("The pass key is 12345")
    before, after = text.split("Remember it.")
    assert (before.count(FILLER), after.count(FILLER)) == (3, 1)
    line = len(tokenizer(FILLER).input_ids) + 1
    for length in (600, 1000):
        ids, answer = _prompt(tokenizer, 54321, length, 50)
        assert length - line <= ids.shape[1] <= length
        assert tokenizer.decode(ids[0, -answer:]).strip() == "54321"
        assert tokenizer.decode(ids[0]).count("54321") == 3


def test_a_row_has_the_key_as_its_targets_but_where_it_is_told_first(tokenizer: Any) -> None:
    row = passkey_row(tokenizer, 54321, 1, 2)
    ids, answer = _prompt(tokenizer, 54321, len(row["ids"]), 33)
    assert row["ids"] == ids[0].tolist()
    targets = [at for at, label in enumerate(row["labels"]) if label != -100]
    assert tokenizer.decode([row["ids"][at] for at in targets]) == " 54321 54321"
    assert [row["labels"][at] for at in targets] == [row["ids"][at] for at in targets]
    assert targets[-answer:] == [*range(len(row["ids"]) - answer, len(row["ids"]))]
    assert tokenizer.decode(row["ids"][: targets[0]]).endswith("The pass key is 54321. Remember it.")


def test_lines_of_ones_own_stand_where_filler_does(tokenizer: Any) -> None:
    own = ["In the beginning.", "And the evening and the morning."]
    text = passkey_text(54321, own, 1)
    assert text.split("\n")[1:3] == own
    assert text.count(FILLER) == 1
    row = passkey_row(tokenizer, 54321, own, [])
    assert row["ids"] == tokenizer(passkey_text(54321, own, 0), add_special_tokens=False).input_ids
    assert sum(label != -100 for label in row["labels"]) == 2 * len(tokenizer(" 54321").input_ids)


def test_a_text_begins_as_documents_do(tokenizer: Any) -> None:
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    first = tokenizer.bos_token_id
    backend = tokenizer.backend_tokenizer
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", first)])
    empty = len(tokenizer(passkey_text(54321, 0, 0)).input_ids)
    ids, answer = _prompt(tokenizer, 54321, empty, 50)
    assert ids.shape[1] == empty
    assert ids[0, :2].tolist() == prompt_of(tokenizer, INTRO)[:2]
    assert tokenizer.decode(ids[0, -answer:]).strip() == "54321"
    row = passkey_row(tokenizer, 54321, 0, 0)
    assert row["ids"] == ids[0].tolist()
    assert row["labels"][-answer:] == row["ids"][-answer:]
    with pytest.raises(UserError, match=f"{empty - 1} tokens have no room for the question, which takes {empty} "):
        _prompt(tokenizer, 54321, empty - 1, 50)


class Copies(nn.Module):
    """A model that knows the key, or its first digits only."""

    def __init__(self, ids: torch.Tensor, until: int) -> None:
        super().__init__()
        self.ids, self.until = ids, until

    def forward(self, input_ids: torch.Tensor, **_: Any) -> Any:
        logits = torch.zeros(*input_ids.shape, 400)
        for at in range(input_ids.shape[1] - 1):
            logits[0, at, input_ids[0, at + 1] if at < self.until else 0] = 1
        return type("Output", (), {"logits": logits})


def test_every_token_of_the_key_has_to_be_the_likeliest(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from galore.trainer.trained.longcontext import passkey

    monkeypatch.setattr(passkey, "split_head", lambda model: None)
    ids, answer = _prompt(tokenizer, 54321, 600, 50)
    for until, found in ((10**6, True), (ids.shape[1] - 2, False)):
        model: Any = Copies(ids, until)
        model.device = torch.device("cpu")
        assert passkey._finds(model, ids, answer) is found


def test_the_score_is_a_function_of_the_seed(trained: tuple[Path, Path], tokenizer: Any) -> None:
    model = AutoModelForCausalLM.from_pretrained(trained[0])
    told = list[Any]()
    rows = passkeys(model, tokenizer, [600], 1, 7, lambda *each: told.append(each))
    assert rows == passkeys(model, tokenizer, [600], 1, 7)
    assert (rows[0]["length"], rows[0]["asked"], [*rows[0]["by_depth"]]) == (600, 5, ["0", "25", "50", "75", "100"])
    assert told[-1] == (5, 5)
    with pytest.raises(UserError, match="8 tokens have no room for the question"):
        passkeys(model, tokenizer, [8], 1, 7)
