"""Where attention is looked at, and how far it is from a map."""

from __future__ import annotations

import pytest
import torch

from galore.trainer.data.batch import IGNORED
from galore.trainer.data.rows.modality import Modalities
from galore.trainer.data.rows.tokenbatch import TokenBatch
from galore.trainer.losses.alignment import Aligner, AttentionAlignment, Places, _places, alignment_error

NAN = float("nan")
CODES = torch.tensor([False] * 6 + [True] * 4)  # ids from 6 on are codes, 4 and 5 begin and end them
MODALITIES = Modalities(("text", "image"), torch.tensor([0] * 4 + [1] * 6), CODES, (1.0, 1.0))
IDS = torch.tensor([[4, 6, 7, 5, 1, 2, 3], [1, 4, 9, 6, 5, 2, 2]])


def batch(extras: list[list[float]]) -> TokenBatch:
    return TokenBatch(IDS, IDS, (0, 1), modalities=MODALITIES, extras=torch.tensor(extras))


def test_queries_predict_what_is_said_after_the_codes() -> None:
    one, other = _places(batch([[0.25, 0.75, NAN, NAN], [1.0, 2.0, 3.0, 4.0]]))
    assert (one.queries.tolist(), one.keys.tolist(), one.map.tolist()) == ([3, 4, 5], [1, 2], [[0.25, 0.75]])
    assert (other.queries.tolist(), other.keys.tolist(), other.map.tolist()) == ([4, 5], [2, 3], [[1, 2], [3, 4]])
    assert not len(_places(batch([[NAN, NAN], [1.0, 2.0]]))[0].queries)


@pytest.mark.parametrize("numbers", [[1.0, 2.0, 3.0, NAN], [1.0, 2.0, 3.0, 4.0]])
def test_a_row_whose_numbers_are_no_maps_counts_as_one_without(numbers: list[float]) -> None:
    rows = batch([numbers, [1.0, 2.0, NAN, NAN]])
    none, some = _places(rows)
    assert (len(none.queries), len(some.queries)) == (0, 2)
    assert AttentionAlignment.count(None, rows) == 1  # type: ignore[arg-type]


@pytest.mark.parametrize("length", [4, 5, 7])
def test_codes_behind_the_last_target_do_not_count_however_far_a_row_is_fed(length: int) -> None:
    ids = torch.tensor([[6, 7, 5, 1, 8, 9, 6]])
    labels = torch.where(torch.arange(7) == 3, ids, IGNORED)
    rows = TokenBatch(ids[:, :length], labels[:, :length], (0,), modalities=MODALITIES, extras=torch.ones(1, 2))
    (found,) = _places(rows)
    assert (found.queries.tolist(), found.keys.tolist()) == ([2], [0, 1])


def test_an_even_map_and_an_even_attention_agree_and_one_that_looks_elsewhere_does_not() -> None:
    aligner = Aligner(heads=3, seed=0)
    attention = torch.full((1, 3, 2, 7), 0.1)
    row = [Places(torch.tensor([3, 4]), torch.tensor([1, 2]), torch.tensor([[0.5, 0.5]]))]
    assert float(alignment_error(attention, row, aligner)) == pytest.approx(0, abs=1e-6)
    row = [row[0]._replace(map=torch.tensor([[1.0, 0.0]]))]
    assert float(alignment_error(attention, row, aligner)) == pytest.approx(1, abs=1e-6)
    attention[..., 1] = 0.3  # three times as much on the right one of two: 1.5 and 0.5 against 2 and 0
    assert float(alignment_error(attention, row, aligner)) == pytest.approx(0.25, abs=1e-6)


def test_an_aligner_is_the_same_for_a_seed_and_draws_from_no_other() -> None:
    before = torch.get_rng_state()
    one, other = Aligner(4, 1), Aligner(4, 1)
    assert torch.equal(one.inner.weight, other.inner.weight)
    assert torch.equal(torch.get_rng_state(), before)
