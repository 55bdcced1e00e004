from __future__ import annotations

import mmap
from pathlib import Path

import torch
from torch import nn

from galore.trainer.memory.live import at_peak, by_category, current_and_peak
from galore.trainer.models.decoder import build_decoder
from galore.trainer.recipe.schema.model import ModelSection


def linear() -> nn.Linear:
    return nn.Linear(10, 30)  # 330 parameters


def test_counts_weights_gradients_and_adam_states() -> None:
    model = linear()
    optimizer = torch.optim.AdamW(model.parameters())
    empty = by_category(model, optimizer)
    assert empty == {"weights": 1320, "gradients": 0, "optimizer_states": 0, "projectors": 0, "accumulators": 0}
    model(torch.ones(1, 10)).sum().backward()
    assert by_category(model, optimizer)["gradients"] == 1320
    optimizer.step()
    assert by_category(model, optimizer)["optimizer_states"] == 2 * 1320 + 2 * 4  # two moments, two step counters
    assert by_category(model)["optimizer_states"] == 0


def test_asks_the_optimizer_that_knows() -> None:
    class Projected:
        def memory_by_category(self) -> dict[str, int]:
            return {"optimizer_states": 5, "projectors": 6, "accumulators": 7}

    found = by_category(linear(), Projected())
    assert (found["optimizer_states"], found["projectors"], found["accumulators"], found["weights"]) == (5, 6, 7, 1320)


def test_a_tied_weight_counts_once_also_on_meta() -> None:
    def size(tied: bool, device: str) -> int:
        section = ModelSection(
            hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2, tie_word_embeddings=tied
        )
        model = build_decoder(section, 100, device=device, seed=0, max_length=8, base_dir=Path.cwd())
        return by_category(model)["weights"]

    for device in ("cpu", "meta"):
        assert size(False, device) - size(True, device) == 100 * 32 * 2


def test_the_rest_of_the_peak_is_activations_and_never_negative() -> None:
    assert at_peak({"weights": 30, "gradients": 10}, 100)["activations_and_temporaries"] == 60
    assert at_peak({"weights": 30}, 100, baseline=50)["activations_and_temporaries"] == 20
    assert at_peak({"weights": 30}, 20)["activations_and_temporaries"] == 0


def test_current_and_peak_follow_the_process() -> None:
    before, size = current_and_peak("cpu"), 64 * 2**20
    with mmap.mmap(-1, size) as block:  # of the system's, whatever freed memory this process keeps
        block.write(b"\1" * size)
        during = current_and_peak("cpu")
        assert 0.9 * size < during.current - before.current < 2.5 * size
    after = current_and_peak("cpu")
    assert after.current < during.current <= after.peak + 2**20  # the kernel updates its maximum now and then
    assert after.peak >= after.current
