"""Streamed is resident, bit for bit, whatever trains: losses, norms, weights, states; and never more blocks are there."""

from __future__ import annotations

import pytest
import torch
from tiny_training import BLOCKS, METHODS, Trained, require_equal
from torch import nn

from galore.trainer.checkpoint.finite import trained_tensors
from galore.trainer.checkpoint.state import load_model
from galore.trainer.host.places import traffic
from galore.trainer.models.adapters.relora import restart_adapters

STREAMED = "train.stream_weights=true"

QUICK = ("two-pass", "immediate", "some recomputed", "8 bits", "clipped", "fira", "lora, dropout")


@pytest.mark.parametrize("method", [pytest.param(e, marks=[] if e in QUICK else pytest.mark.slow) for e in METHODS])
def test_streamed_is_resident(method: str) -> None:
    if "lora" in method:
        pytest.importorskip("peft")
    settings = METHODS[method]
    resident = Trained(*(each for each in settings if "stream" not in each))
    ours = Trained(STREAMED, *settings)
    require_equal(ours, resident)
    assert "wait in memory" in " ".join(ours.told)


def storages(model: nn.Module) -> dict[int, int]:
    found = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in model.parameters()}
    return found | {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in model.buffers()}


@pytest.mark.parametrize("count", [2, 3])
def test_the_device_holds_that_many_blocks(count: int) -> None:
    """And the host all of them, in storages of its own."""
    ours, resident = Trained(f"train.stream_weights={count}", steps=1), Trained(steps=1)
    layers = ours.model.model.layers
    matrices = sum(p.nbytes for p in layers[0].parameters() if p.ndim == 2)
    here, whole = storages(ours.model), storages(resident.model)
    assert ours.blocks.sizes == [matrices] * BLOCKS
    assert sum(whole.values()) - sum(here.values()) == (BLOCKS - count) * matrices
    waiting = {block.waiting.bytes.untyped_storage().data_ptr() for block in ours.blocks.blocks}
    assert len(waiting) == BLOCKS
    assert not waiting & here.keys()
    assert ours.blocks.host.held == ours.blocks.host.most == BLOCKS * matrices


@pytest.mark.parametrize(
    ("settings", "trained", "sketches"),
    [
        ([], True, False),
        (["train.stream_weights=3", "train.micro_batch_size=1"], True, False),
        (["optim.method=lora"], False, False),
        (["optim.refresh=two-pass", "optim.stagger=false", "optim.update_proj_gap=1"], True, True),
    ],
)
def test_bytes_over_the_bus_are_as_predicted(settings: list[str], trained: bool, sketches: bool) -> None:
    if not trained:
        pytest.importorskip("peft")
    ours = Trained(STREAMED, *settings, steps=1)
    host, places = ours.blocks.host, ours.blocks.places
    before = host.fetched, host.sent
    ours.step()
    expected = traffic(ours.blocks.sizes, places.count, ours.recipe.train.accumulation, trained, sketches)
    assert (host.fetched - before[0], host.sent - before[1]) == (expected["fetch"], expected["send"])


def test_a_step_that_is_not_finite_leaves_every_tensor_as_it_was() -> None:
    ours = Trained(STREAMED, "optim.weight_dtype=int8")
    before = {name: tensor.clone() for name, tensor in ours.held.items()}
    head = ours.model.lm_head.weight.data
    saved = head[0, 0].clone()
    head[0, 0] = float("nan")
    assert ours.step().report.skipped
    head[0, 0] = saved
    assert all(torch.equal(before[name], tensor) for name, tensor in ours.held.items())
    assert not ours.blocks.places.changed


def test_weights_that_are_loaded_are_the_ones_that_are_used() -> None:
    """Into a streamed model in the middle of training, from a resident one."""
    ours, other = Trained(STREAMED), Trained(steps=5)
    ours.model(input_ids=torch.arange(8).view(1, 8)).logits.float().sum().backward()  # the first blocks are there now
    ours.optimizer.zero_grad()
    state = other.optimizer.state_tensors()
    load_model(ours.model, {name: each for name, each in other.held.items() if name not in state})
    ours.optimizer.load_state_tensors(state, other.optimizer.clock)
    assert str(ours.step()) == str(other.step())
    ours.results = other.results
    require_equal(ours, other)


def test_what_is_looked_at_for_numbers_is_what_waits() -> None:
    ours = Trained(STREAMED)
    names = dict(trained_tensors(ours.model, ours.optimizer))
    assert all(torch.equal(names[name], tensor) for name, tensor in ours.held.items())


def test_merged_adapters_reach_the_host() -> None:
    pytest.importorskip("peft")
    relora = ["optim.method=lora", "optim.adapter=relora", "optim.relora_gap=100"]
    both = [Trained(STREAMED, *relora), Trained(*relora)]
    for each in both:
        assert restart_adapters(each.model, each.optimizer, seed=1, step=3, stochastic=True) == 7 * BLOCKS
        each.results.append(each.step())
    require_equal(*both)


def test_evaluation_needs_no_backward_in_between() -> None:
    both = [Trained(STREAMED), Trained()]
    ids = torch.arange(8).view(1, 8)
    outputs = []
    with torch.no_grad():
        for each in both:
            each.model.eval()
            outputs += [each.model(input_ids=ids).logits, each.model(input_ids=ids).logits]
    assert all(torch.equal(outputs[0], other) for other in outputs[1:])
