"""One optimizer step on a real LLaMA: 1×8 equals 8×1 for every method, and the loss is that of the whole batch."""

from pathlib import Path

import pytest
import torch

import galore.trainer.step as step_module
from galore.trainer.build import build_model
from galore.trainer.checkpoint.state import load_model, model_tensors
from galore.trainer.data.batch import Objective
from galore.trainer.data.rows.tokenbatch import TokenBatch
from galore.trainer.models.head import split_head
from galore.trainer.optimizer import build_optimizer
from galore.trainer.recipe.schema.recipe import Recipe
from galore.trainer.step import Counts, accumulate, count_targets, micro_batches, summed_losses, train_step

VOCABULARY = 97
METHODS = {
    "galore": {"method": "galore", "rank": 8, "update_proj_gap": 2},
    "galore, svd": {"method": "galore", "rank": 8, "update_proj_gap": 2, "proj_type": "svd"},
    "lora": {"method": "lora", "rank": 4, "train_modules": ["embed_tokens", "lm_head"]},
    "full": {"method": "full"},
}


def recipe(optim, accumulation=1, checkpointing=False, **model):
    return Recipe.model_validate(
        {
            "model": {
                "hidden_size": 32,
                "intermediate_size": 80,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "dtype": "float32",
                **model,
            },
            "data": {"source": "packaged", "max_length": 24},
            "optim": {"learning_rate": 1e-2, **optim},
            "train": {
                "max_steps": 4,
                "global_batch_size": 8,
                "micro_batch_size": 8 // accumulation,
                "gradient_checkpointing": checkpointing,
            },
        }
    )


def batch(step, ragged=False):
    generator = torch.Generator().manual_seed(step)
    ids = torch.randint(0, VOCABULARY, (8, 24), generator=generator)
    labels = ids.clone()
    if ragged:  # rows of different length, as `packing: paper` makes them
        for row in range(8):
            labels[row, 4 + 2 * row :] = -100
        labels[5] = -100  # a prompt that fills its row: a micro-batch without a target
    return TokenBatch(ids, labels, tuple(range(8)))


def trained(recipe, steps=4, clip=0.7, ragged=False):
    model, optimizer = built(recipe)
    results = [
        train_step(model, optimizer, batch(step, ragged), recipe.train.micro_batch_size, clip) for step in range(steps)
    ]
    return model, results


def relative_difference(a, b):
    pairs = [(p.detach().double(), q.detach().double()) for p, q in zip(a.parameters(), b.parameters(), strict=True)]
    return (sum((p - q).square().sum() for p, q in pairs) / sum(q.square().sum() for _, q in pairs)).sqrt().item()


def built(recipe):
    model, _ = build_model(recipe, VOCABULARY, "cpu", Path())
    return model, build_optimizer(model, recipe.optim, accumulation=recipe.train.accumulation, seed=0)


def summed_gradient(model, optimizer, data, micro_batch_size):
    """What the step will apply, (parameters,) float64: projected where it is projected."""
    targets = count_targets(data)
    if optimizer.wants_sketch_pass:
        with optimizer.sketching():
            accumulate(model, data, micro_batch_size, Counts(targets))
    accumulate(model, data, micro_batch_size, Counts(targets))
    optimizer.clip_grad_norm_(0.1)
    return torch.cat([slot.sum.value.double().flatten() for slot in optimizer.slots.values()])


def test_the_first_basis_is_that_of_the_whole_batch():
    """Found in a pass of its own, or the norm would be that of another projection."""
    steps = [trained(recipe(METHODS["galore"], accumulation=parts), steps=1)[1][0] for parts in (1, 8)]
    assert steps[0].report.grad_norm == pytest.approx(steps[1].report.grad_norm, rel=1e-5)


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("name", METHODS)
def test_one_times_eight_equals_eight_times_one(name, ragged):
    """Gradient and weights, from the same state at every step: Adam's sign-like first steps amplify any difference."""
    if name == "lora":
        pytest.importorskip("peft", reason="the lora extra is not installed")
    settings = METHODS[name] | {"adam_epsilon": 1e-5}
    (whole, a), (parts, b) = built(recipe(settings)), built(recipe(settings, accumulation=8))
    for step in range(4):
        load_model(parts, model_tensors(whole))
        b.load_state_tensors(a.state_tensors(), a.clock)
        one, eight = (
            summed_gradient(whole, a, batch(step, ragged), 8),
            summed_gradient(parts, b, batch(step, ragged), 1),
        )
        a.step()
        b.step()
        # exact singular vectors turn by rounding / spectral gap; a range basis does not care
        tolerance = 1e-5 if settings.get("proj_type") == "svd" else 1e-6
        assert ((one - eight).norm() / one.norm()).item() <= tolerance
        assert a.report.grad_norm == pytest.approx(b.report.grad_norm, rel=1e-6)
        assert a.report.grad_scale < 1, "clipping must be at work"
        assert relative_difference(whole, parts) <= 1e-6


def test_checkpointing_changes_nothing():
    plain, a = trained(recipe(METHODS["galore"], accumulation=2))
    recomputed, b = trained(recipe(METHODS["galore"], accumulation=2, checkpointing=True))
    assert [r.loss_nats for r in a] == [r.loss_nats for r in b]
    assert relative_difference(plain, recomputed) == 0


@pytest.mark.parametrize("tied", [False, True])
def test_loss_is_the_cross_entropy_of_the_models_own_logits(tied):
    model, _ = build_model(recipe(METHODS["full"], tie_word_embeddings=tied), VOCABULARY, "cpu", Path())
    data = batch(0, ragged=True)
    logits = model(input_ids=data.input_ids).logits[:, :-1].flatten(0, 1)
    expected = torch.nn.functional.cross_entropy(logits, data.labels[:, 1:].flatten(), reduction="sum")
    torch.testing.assert_close(summed_losses(model, data).total, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize("tied", [False, True])
def test_gradients_are_those_of_the_whole_loss_z_included(tied, split, monkeypatch):
    """In float64, over several micro-batches with padding; and with a head that cannot be taken apart."""
    monkeypatch.setattr(step_module, "split_head", split_head if split else lambda model: None)
    model, _ = build_model(recipe(METHODS["full"], tie_word_embeddings=tied), VOCABULARY, "cpu", Path())
    data, model = batch(0, ragged=True), model.double()
    targets = data.labels[:, 1:].flatten()
    logits = model(input_ids=data.input_ids).logits[:, :-1].flatten(0, 1)
    cross_entropy = torch.nn.functional.cross_entropy(logits, targets)
    z = 0.05 * logits.logsumexp(1)[targets != -100].square().mean()
    expected = torch.autograd.grad(cross_entropy + z, list(model.parameters()))
    assert len(expected) == 20 + (not tied)

    found = accumulate(model, data, 2, Counts(count_targets(data)), objective=Objective(z_loss=0.05))
    assert found[:2] == pytest.approx((cross_entropy.item(), z.item()), rel=1e-6)
    tolerance = {"rtol": 1e-6, "atol": 1e-9} if split else {"rtol": 1e-3, "atol": 1e-6}  # whole logits are cast to fp32
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, **tolerance)


def test_z_loss_moves_the_weights_and_is_reported_apart():
    """The loss of the first step is the cross-entropy, as without it."""
    (plain, a), (other, b) = (built(recipe(METHODS["galore"])) for _ in range(2))
    without = train_step(plain, a, batch(0), 8, 1.0)
    with_z = train_step(other, b, batch(0), 8, 1.0, Objective(z_loss=0.1))
    assert (without.z_loss, with_z.loss_nats) == (0.0, without.loss_nats)
    assert with_z.z_loss > 1
    assert relative_difference(plain, other) > 0


@pytest.mark.parametrize("name", METHODS)
def test_rows_of_like_length_give_the_gradient_of_rows_in_their_order(name):
    """As many micro-batches of as many rows, of fewer tokens."""
    if name == "lora":
        pytest.importorskip("peft", reason="the lora extra is not installed")
    data = long_and_short()
    (one, a), (other, b) = (built(recipe(METHODS[name], accumulation=4)) for _ in range(2))
    plain, by_length = (
        train_step(model, optimizer, data, 2, None, by_length=asked)
        for model, optimizer, asked in ((one, a, False), (other, b, True))
    )
    assert (plain.tokens, by_length.tokens) == (8 * 192, 2 * (192 + 128 + 64 + 64))
    assert by_length.targets == plain.targets
    assert by_length.loss_nats == pytest.approx(plain.loss_nats, rel=1e-6)
    assert by_length.report.grad_norm == pytest.approx(plain.report.grad_norm, rel=1e-5)
    assert relative_difference(one, other) < 1e-3


def long_and_short():
    """Eight rows of 192 tokens, of which most have fewer targets."""
    ids = torch.randint(0, VOCABULARY, (8, 192), generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([30, 190, 64, 12, 100, 3, 150, 65])[:, None]
    return TokenBatch(ids, ids.where(torch.arange(192) < lengths, -100), tuple(range(8)))


def test_the_longest_rows_make_the_first_micro_batch_and_one_alone_keeps_their_order():
    data = long_and_short()
    parts = list(micro_batches(data, 3, by_length=True))
    assert [part.sequence_ids for part in parts] == [(1, 6, 4), (7, 0, 2), (3, 5)]
    assert [part.input_ids.shape[1] for part in parts] == [192, 128, 64]
    (whole,) = micro_batches(data, 8, by_length=True)
    assert whole.sequence_ids == data.sequence_ids


def test_targets_leave_out_first_positions_and_padding():
    assert count_targets(batch(0)) == 8 * 23
    assert count_targets(batch(0, ragged=True)) == sum(3 + 2 * row for row in range(8) if row != 5)


def test_micro_batches_keep_order_and_rows():
    parts = list(micro_batches(batch(0), 3))
    assert [len(part) for part in parts] == [3, 3, 2]
    assert torch.equal(torch.cat([part.input_ids for part in parts]), batch(0).input_ids)
