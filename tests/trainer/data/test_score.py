from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import Gemma2Config, PreTrainedModel

from galore.trainer.common.errors import UserError
from galore.trainer.common.format import exponential
from galore.trainer.data.batch import IGNORED, Scoring
from galore.trainer.data.rows.tokenbatch import TokenBatch
from galore.trainer.data.score import evaluate
from galore.trainer.models.decoder import build_decoder
from galore.trainer.models.head import split_head
from galore.trainer.recipe.schema.model import ModelSection
from galore.trainer.recipe.schema.train import EvalSection

TOKEN, PAPER = Scoring(split_head), Scoring(split_head, settings=EvalSection(mode="paper"))


def llama(**fields: Any) -> PreTrainedModel:
    section = ModelSection(
        **{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2,
           "initializer_range": 0.3, "dtype": "float32"} | fields,
    )  # fmt: skip
    return build_decoder(section, 50, device="cpu", seed=0, max_length=16, base_dir=Path.cwd())


def soft_capped(tmp_path: Path) -> PreTrainedModel:
    Gemma2Config(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, final_logit_softcapping=5.0, initializer_range=0.3,
    ).save_pretrained(tmp_path)  # fmt: skip
    return llama(name_or_path=str(tmp_path), random_init=True, attn_implementation="eager")


def batches() -> list[TokenBatch]:
    """Three batches of 3, 3 and 1 rows; padding of different length in most of them."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for rows in (3, 3, 1):
        ids = torch.randint(0, 50, (rows, 12), generator=generator)
        labels = ids.clone()
        for row in range(rows):
            labels[row, 12 - 4 * row :] = IGNORED
        made.append(TokenBatch(ids, labels, tuple(range(rows))))
    return made


def losses(model: PreTrainedModel, batch: TokenBatch) -> torch.Tensor:
    """Every scored target's loss in float64, computed the plain way."""
    logits = model(batch.input_ids).logits[:, :-1].double()
    targets = batch.labels[:, 1:]
    each = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none")
    return each[targets.flatten() != IGNORED].detach()


@pytest.fixture(params=["plain head", "soft-capped head"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> PreTrainedModel:
    return llama() if request.param == "plain head" else soft_capped(tmp_path)


def test_token_mode_is_the_mean_over_all_targets(model: PreTrainedModel) -> None:
    expected = torch.cat([losses(model, batch) for batch in batches()])
    result = evaluate(model, batches(), TOKEN)
    assert result.loss_nats == pytest.approx(expected.mean().item(), rel=1e-6)
    assert result.perplexity == pytest.approx(math.exp(expected.mean().item()), rel=1e-5)
    assert (result.tokens, result.batches) == (len(expected), 3)


def test_paper_mode_divides_the_sum_of_batch_means_by_one_more(model: PreTrainedModel) -> None:
    means = [losses(model, batch).mean().item() for batch in batches()]
    result = evaluate(model, batches(), PAPER)
    assert result.loss_nats == pytest.approx(sum(means) / 4, rel=1e-6)
    assert result.loss_nats != pytest.approx(evaluate(model, batches(), TOKEN).loss_nats, rel=1e-2)


def test_token_mode_does_not_depend_on_the_cut_into_batches(model: PreTrainedModel) -> None:
    rows = [batch.rows(i, i + 1) for batch in batches() for i in range(len(batch))]
    assert evaluate(model, rows, TOKEN).loss_nats == pytest.approx(
        evaluate(model, batches(), TOKEN).loss_nats, rel=1e-6
    )


def test_bfloat16_weights_are_scored_in_float32() -> None:
    """The error against float64 stems from the logits alone, not from summing or from the softmax."""
    model = llama(dtype="bfloat16")
    expected = torch.cat([losses(model, batch) for batch in batches()]).mean().item()
    assert evaluate(model, batches(), TOKEN).loss_nats == pytest.approx(expected, rel=1e-5)


def test_batches_without_targets_count_for_nothing() -> None:
    model, made = llama(), batches()
    empty = TokenBatch(made[0].input_ids, torch.full_like(made[0].labels, IGNORED), made[0].sequence_ids)
    for how in (TOKEN, PAPER):
        assert evaluate(model, [empty, *made], how) == evaluate(model, made, how)


@pytest.mark.parametrize("training", [True, False])
def test_mode_is_restored_even_after_an_error(training: bool) -> None:
    model = llama().train(training)
    evaluate(model, batches(), TOKEN)
    assert model.training is training

    def broken() -> Iterator[TokenBatch]:
        yield batches()[0]
        assert not model.training
        raise OSError

    with pytest.raises(OSError):  # noqa: PT011
        evaluate(model, broken(), TOKEN)
    assert model.training is training


def test_no_graph_is_kept_and_no_gradient_made() -> None:
    model = llama()
    evaluate(model, batches(), TOKEN)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.is_grad_enabled()


def test_nothing_to_score_is_refused() -> None:
    with pytest.raises(UserError, match="no held-out token"):
        evaluate(llama(), [], TOKEN)


def test_perplexity_overflows_to_infinity() -> None:
    assert exponential(1.0) == pytest.approx(math.e)
    assert exponential(1e4) == math.inf
    assert math.isnan(exponential(math.nan))


def test_logits_of_the_whole_batch_never_exist(model: PreTrainedModel) -> None:
    """Of the soft-capped model one row's at a time; of the plain head no logits module runs at all."""
    rows = []
    model.get_output_embeddings().register_forward_hook(lambda module, args, out: rows.append(out.shape[0]))
    evaluate(model, batches(), TOKEN)
    probe = [1]  # the two tokens that tell which kind of head it is
    assert rows == (probe if model.config.model_type == "llama" else probe + [1] * 7)
