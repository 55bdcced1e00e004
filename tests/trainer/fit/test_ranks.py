"""What a recipe sends and holds on several processes, without any of them."""

import pytest
import torch
import torch.distributed as dist

from galore.trainer.common.errors import UserError
from galore.trainer.fit.measure import measure
from galore.trainer.fit.predict import predict, profile_on
from galore.trainer.fit.ranks import of_one_rank, profile_of_part, sent_by, trace_of_part
from galore.trainer.machine.cards import card_or_default
from galore.trainer.memory.trace.trace import Trace
from galore.trainer.parallel.group import Group, leave
from galore.trainer.parallel.traffic import LINKS
from galore.trainer.recipe.load import load_recipe


def test_llama_7b_sends_a_tenth_of_its_gradients():
    sent = sent_by(load_recipe("llama-7b-galore-8bit", ["optim.rank=256"]), 2)
    layer = 4 * 256 * 4096 + 3 * 256 * 11008
    assert sent.ordinary["projected sums"] == 2 * 32 * layer
    assert sent.ordinary["full-rank sums"] == 2 * (2 * 32000 * 4096 + 65 * 4096)
    assert round(sum(sent.ordinary.values()) / 1e9, 1) == 1.3
    assert round(sent.gradients / 1e9, 1) == 13.5
    assert sent.seconds["10 GbE"] == pytest.approx(sum(sent.ordinary.values()) / LINKS["10 GbE"])
    assert sum(sent.most.values()) > sum(sent.ordinary.values())


@pytest.mark.parametrize(
    ("batch", "micro", "size", "expected"),
    [(8, 2, 2, (4, 2)), (8, 8, 2, (4, 4)), (6, 2, 4, (2, 2)), (10, 2, 4, (4, 2))],
)
def test_one_rank_has_the_largest_share(batch, micro, size, expected):
    sizes = [f"train.global_batch_size={batch}", f"train.micro_batch_size={micro}"]
    train = of_one_rank(load_recipe("demo", sizes), size).recipe.train
    assert (train.global_batch_size, train.micro_batch_size) == expected


def test_more_processes_than_sequences_are_refused():
    with pytest.raises(UserError, match="4 sequences cannot be shared by 5 processes"):
        of_one_rank(load_recipe("demo", ["train.global_batch_size=4", "train.micro_batch_size=1"]), 5)


@pytest.fixture
def group(tmp_path):
    """A group of one process, which really sends."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield Group(0, 1)
    leave()


@pytest.mark.parametrize("settings", [["optim.method=full"], ["optim.refresh=summed"]])
def test_what_buckets_hold_is_predicted(tiny, group, monkeypatch, settings):
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    loaded = tiny(*settings, "train.global_batch_size=4", "train.micro_batch_size=2")
    alone, predicted = (max(predict(loaded, None, ranks=ranks).requested()) for ranks in (1, 2))
    measured = measure(loaded, torch.device("cpu"), group).allocator_bytes
    assert predicted > 1.01 * alone
    assert predicted == pytest.approx(measured, rel=2e-3)


def test_in_parts_weights_are_gathered_and_sums_scattered():
    recipe = load_recipe("llama-7b-galore-8bit", ["optim.rank=256", "parallel.mode=fsdp"])
    sent, batch = sent_by(recipe, 4, "fsdp"), recipe.recipe.train
    micro_batches = batch.global_batch_size // 4 // batch.micro_batch_size
    blocks, outside = 32 * (4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096), 2 * 32000 * 4096 + 4096
    assert sent.ordinary["weights"] == micro_batches * 2 * (2 * blocks + outside) // 4
    assert sent.ordinary["projected sums"] == sent_by(recipe, 4).ordinary["projected sums"]
    assert sent.seconds["10 GbE"] > 3 * sent.ordinary["weights"] / LINKS["10 GbE"]


def test_a_part_of_a_model_holds_a_part_of_its_weights():
    recipe = of_one_rank(load_recipe("demo", ["parallel.mode=fsdp", "data.max_length=32"]), 4)
    card = card_or_default("rtx4090")
    whole, part = profile_on(recipe, card, brief=True), profile_of_part(recipe, card, 4, brief=True)
    for category in ("weights", "optimizer_states"):
        assert part.peak.categories[category] == pytest.approx(whole.peak.categories[category] / 4, rel=0.05)
    assert part.peak.categories["projectors"] == whole.peak.categories["projectors"]


def test_what_cannot_be_cut_is_refused_as_in_a_run():
    recipe = of_one_rank(load_recipe("demo", ["parallel.mode=fsdp", "data.max_length=32"]), 3)
    with pytest.raises(UserError, match="688 columns are not divisible by 3 processes"):
        trace_of_part(recipe, Trace(), 3)
