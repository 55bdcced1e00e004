from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from architectures import decoder
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel

from galore.trainer.checkpoint.tensors import refuse_different
from galore.trainer.common.errors import UserError
from galore.trainer.models.adapters.lora import add_adapters
from galore.trainer.models.materialize import adopt_weights, draw_weights
from galore.trainer.models.pretrained import skeleton
from galore.trainer.recipe.schema.optim import OptimSection

Build = Callable[..., PreTrainedModel]
IDS = torch.arange(32).view(2, 16)


def stored(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """As a checkpoint holds it: tied weights once."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_meta_model_takes_over_a_checkpoint(build: Build, tied: bool, dtype: str) -> None:
    model = build(tie_word_embeddings=tied, dtype=dtype)
    empty = build(tie_word_embeddings=tied, dtype=dtype, device="meta")
    adopt_weights(empty, stored(model), device="cpu")
    assert torch.equal(empty(IDS).logits, model(IDS).logits)
    assert empty.model.rotary_emb.inv_freq.dtype == torch.float32
    assert torch.equal(empty.model.rotary_emb.inv_freq, model.model.rotary_emb.inv_freq)
    assert (empty.lm_head.weight is empty.model.embed_tokens.weight) is tied


def test_a_tied_weight_may_be_stored_under_either_name(build: Build) -> None:
    model = build(tie_word_embeddings=True)
    tensors = stored(model)
    tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
    empty = build(tie_word_embeddings=True, device="meta")
    adopt_weights(empty, tensors, device="cpu")
    assert torch.equal(empty(IDS).logits, model(IDS).logits)


def test_a_wrapped_model_takes_over_a_checkpoint(build: Build) -> None:
    optim = OptimSection(method="lora", rank=4)
    model = add_adapters(build(), optim, seed=1)
    empty = add_adapters(build(device="meta"), optim, seed=2)
    adopt_weights(empty, stored(model), device="cpu")
    assert torch.equal(empty(input_ids=IDS).logits, model(input_ids=IDS).logits)
    frozen = {name for name, parameter in empty.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name, parameter in model.named_parameters() if not parameter.requires_grad}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("model.norm.weight"), "model.norm.weight is missing"),
        (lambda t: t.update(extra=torch.ones(1)), "extra is not in the model"),
        (
            lambda t: t.update({"model.norm.weight": torch.ones(5)}),
            r"model.norm.weight is \(5,\), the model has \(32,\)",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(build: Build, change: Callable[[dict], object], message: str) -> None:  # type: ignore[type-arg]
    tensors = stored(build())
    change(tensors)
    with pytest.raises(UserError, match=message):
        adopt_weights(build(device="meta"), tensors, device="cpu")


@pytest.mark.parametrize("name", ["gemma3", "mamba2", "gptneox", "qwen2-moe"])
def test_what_no_checkpoint_holds_is_computed_and_draws_over_nothing(name: str) -> None:
    model = decoder(name).eval()
    empty = skeleton(model.config, None)
    adopt_weights(empty, stored(model) | dict(model.state_dict()), device="cpu")
    refuse_different(empty, model)
    assert torch.equal(empty.eval()(IDS).logits, model(IDS).logits)


def test_a_buffer_that_nothing_fills_is_refused(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build()
    rotary = type(model)._init_weights

    def forgetful(self: PreTrainedModel, module: torch.nn.Module) -> None:
        if "Rotary" not in type(module).__name__:
            rotary(self, module)

    monkeypatch.setattr(PreTrainedModel, "_init_weights", forgetful)
    monkeypatch.setattr(type(model.model), "_init_weights", forgetful, raising=False)
    with pytest.raises(UserError, match=r"nothing gives model\.rotary_emb\.inv_freq"):
        adopt_weights(build(device="meta"), stored(model), device="cpu")
    with pytest.raises(UserError, match=r"nothing gives model\.rotary_emb\.inv_freq"):
        build()


@pytest.mark.parametrize(("name", "tensor"), [("openai-gpt", "c_attn.weight"), ("apertus", "act_fn.beta")])
def test_weights_that_nothing_draws_are_refused(name: str, tensor: str) -> None:
    """Their own constructors would, which are not asked on meta; transformers' `_init_weights` does not."""
    with pytest.raises(UserError, match=f"nothing gives .*{tensor}"):
        draw_weights(skeleton(decoder(name).config, None), dtype=torch.float32, device="cpu", seed=0)


def test_a_buffer_that_a_checkpoint_should_hold_is_missed() -> None:
    """As with a bias of a router that is adapted without a gradient."""
    model = decoder("deepseek3")
    with pytest.raises(UserError, match="e_score_correction_bias is missing"):
        adopt_weights(skeleton(model.config, None), stored(model), device="cpu")


def test_the_float32_copy_of_the_model_never_exists(build: Build) -> None:
    """While weights are drawn, what is alive beside the bfloat16 model is one block."""
    with AliveFloat32() as alive:
        model = build(dtype="bfloat16", num_hidden_layers=12)
    block = sum(parameter.numel() * 4 for parameter in model.model.layers[0].parameters())
    assert block <= alive.peak < 2 * block


class AliveFloat32(TorchDispatchMode):
    """Bytes of float32 CPU storages that are alive at one time, at most."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        import weakref

        out = function(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.dtype == torch.float32 and out.device.type == "cpu":
            storage = out.untyped_storage()
            if storage._cdata not in self.known:
                self.known.add(storage._cdata)
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self.free, storage._cdata, storage.nbytes())
        return out

    def free(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size
