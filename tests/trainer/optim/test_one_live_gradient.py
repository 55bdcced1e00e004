"""At any moment of the backward at most one full-size gradient of a projected layer is alive (storages are tracked)."""

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM

from galore.trainer.optim import GaLoreAdamW, galore_groups


class LiveStorages(TorchDispatchMode):
    """Counts live results of matrix products of the given sizes (either orientation): the weights' gradients."""

    def __init__(self, sizes):
        super().__init__()
        self.sizes, self.live, self.most, self.known = sizes, 0, 0, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.mm.default and tuple(sorted(out.shape)) in self.sizes:
            self.track(out.untyped_storage())
        return out

    def track(self, storage):
        key = storage._cdata
        if key in self.known:
            return
        self.known.add(key)
        self.live += 1
        self.most = max(self.most, self.live)
        weakref.finalize(storage, self.dead, key)

    def dead(self, key):
        self.known.discard(key)
        self.live -= 1


def llama():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=61,
        hidden_size=48,
        intermediate_size=112,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        use_cache=False,
    )
    return LlamaForCausalLM(config)


def most_alive_in_backward(options, steps=6, parts=2):
    model = llama()
    optimizer = GaLoreAdamW(galore_groups(model, 8), update_proj_gap=3, accumulation=parts, **options)
    sizes = {tuple(sorted(slot.parameter.shape)) for slot in optimizer.projected}
    most = 0
    for _ in range(steps):
        ids = torch.randint(0, 61, (4, 16))
        with optimizer.sketching() if optimizer.wants_sketch_pass else torch.enable_grad():
            for micro in ids.chunk(parts):
                loss = model(input_ids=micro, labels=micro).loss / parts
                with LiveStorages(sizes) as tracker:
                    loss.backward()
                most = max(most, tracker.most)
        optimizer.step()
    return most


@pytest.mark.parametrize("options", [{}, {"refresh": "two-pass", "stagger": False}, {"refresh": "first-micro-batch"}])
def test_one_full_size_gradient_at_most(options):
    assert most_alive_in_backward(options) == 1


def test_summed_holds_one_too_where_it_knows_there_is_one_micro_batch():
    assert most_alive_in_backward({"proj_type": "svd"}, parts=1) == 1


def test_the_tracker_sees_gradients_that_are_kept():
    assert most_alive_in_backward({"refresh": "summed", "stagger": False}) > 3
