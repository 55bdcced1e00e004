"""Which blocks are recomputed; and that losses and gradients do not know it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from galore.kernels.device import meta_stands_for
from galore.trainer.build import build_model
from galore.trainer.common.errors import UserError
from galore.trainer.data.rows.tokenbatch import TokenBatch
from galore.trainer.models.checkpointing import offloading
from galore.trainer.models.head import split_head
from galore.trainer.models.offload import CudaCopies, MetaCopies, NoCopies
from galore.trainer.recipe.load import LoadedRecipe
from galore.trainer.step import Counts, accumulate, count_targets

Tiny = Callable[..., LoadedRecipe]
LAYERS = 5


def built(tiny: Tiny, *overrides: str, device: str = "cpu") -> tuple[nn.Module, list[str]]:
    return build_model(tiny(f"model.num_hidden_layers={LAYERS}", *overrides).recipe, 256, device, Path())


def forwards(model: nn.Module) -> list[int]:
    """How often each block's first norm runs in a forward and backward."""
    split_head(model)  # tries the model once
    counts = [0] * LAYERS
    layers = model.get_submodule("model.layers")
    for index, layer in enumerate(layers.children()):

        def count(*_: object, index: int = index) -> None:
            counts[index] += 1

        layer.get_submodule("input_layernorm").register_forward_hook(count)
    backward(model)
    return counts


def backward(model: nn.Module, micro_batch_size: int = 2) -> tuple[float, list[torch.Tensor]]:
    ids = torch.randint(0, 256, (4, 16), generator=torch.Generator().manual_seed(0))
    batch = TokenBatch(ids, ids, tuple(range(4)))
    loss, *_ = accumulate(model, batch, micro_batch_size, Counts(count_targets(batch)))
    return loss, [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize(
    ("value", "recomputed"), [("false", 0), ("1", 1), ("3", 3), (f"{LAYERS}", LAYERS), ("true", LAYERS)]
)
def test_the_first_so_many_blocks_run_twice(tiny: Tiny, value: str, recomputed: int) -> None:
    model, _ = built(tiny, f"train.gradient_checkpointing={value}")
    micro_batches = 2
    assert forwards(model) == [2 * micro_batches] * recomputed + [micro_batches] * (LAYERS - recomputed)


@pytest.mark.parametrize("method", ["galore", "lora"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_losses_and_gradients_are_equal_to_the_bit(tiny: Tiny, method: str, dtype: str) -> None:
    common = (f"optim.method={method}", f"model.dtype={dtype}")
    loss, expected = backward(built(tiny, *common)[0])
    for settings in (("true", "false"), ("3", "false"), ("true", "true"), ("2", "true")):
        keys = ("train.gradient_checkpointing", "train.offload_activations")
        model, _ = built(tiny, *common, *(f"{key}={value}" for key, value in zip(keys, settings, strict=True)))
        other, found = backward(model)
        assert other == loss, settings
        assert len(found) == len(expected)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True)), settings


def test_lines_say_what_is_not_simply_all_or_nothing(tiny: Tiny) -> None:
    plain = built(tiny)[1]
    assert built(tiny, "train.gradient_checkpointing=true")[1] == plain
    assert built(tiny, "train.gradient_checkpointing=2", "train.offload_activations=true")[1] == [
        *plain,
        "recomputed in the backward: the first 2 of 5 blocks",
        "train.offload_activations: does nothing on the CPU, whose memory is the host's",
    ]


def test_more_blocks_than_there_are_is_an_error(tiny: Tiny) -> None:
    with pytest.raises(UserError, match="the model has 5 blocks, 6 cannot be recomputed"):
        built(tiny, "train.gradient_checkpointing=6")


@pytest.mark.parametrize(("kind", "expected"), [("cuda", MetaCopies), ("cpu", NoCopies)])
def test_on_meta_inputs_leave_as_on_what_it_stands_for(tiny: Tiny, kind: str, expected: type) -> None:
    with meta_stands_for(kind):
        model, told = built(tiny, "train.gradient_checkpointing=true", "train.offload_activations=true", device="meta")
    (found,) = offloading(model)
    assert isinstance(found.copies, expected)
    assert ("in pinned host memory" in told[-1]) == (kind == "cuda")


def test_nothing_is_offloaded_where_nothing_is_said(tiny: Tiny) -> None:
    assert not list(offloading(built(tiny, "train.gradient_checkpointing=true")[0]))


@pytest.mark.card
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_the_same_to_the_bit_with_less_memory(tiny: Tiny) -> None:
    peaks, results = [], []
    for offload in ("false", "true"):
        model, _ = built(
            tiny,
            "train.gradient_checkpointing=true",
            f"train.offload_activations={offload}",
            "model.num_hidden_layers=12",
            "model.hidden_size=512",
            device="cuda",
        )
        copies = [each.copies for each in offloading(model)]
        assert all(isinstance(each, CudaCopies) for each in copies)
        assert bool(copies) == (offload == "true")
        ids = torch.randint(0, 256, (32, 256), generator=torch.Generator().manual_seed(0))
        batch = TokenBatch(ids, ids, tuple(range(32)))
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        loss, *_ = accumulate(model, batch, 32, Counts(count_targets(batch)))
        peaks.append(torch.cuda.max_memory_allocated() - before)
        results.append((loss, [p.grad.cpu() for p in model.parameters() if p.grad is not None]))
        del model
    assert results[0][0] == results[1][0]
    assert all(torch.equal(a, b) for a, b in zip(results[0][1], results[1][1], strict=True))
    assert peaks[0] - peaks[1] >= 9 * 32 * 256 * 512 * 2  # twelve inputs, of which two are on the device
