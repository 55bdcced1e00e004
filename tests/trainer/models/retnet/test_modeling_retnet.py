"""RetNet as a network: one function whatever the form, and what transformers' generation makes of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from galore.trainer.data.rows.tokenbatch import model_arguments
from galore.trainer.models.checkpointing import recompute_blocks
from galore.trainer.models.isolation import isolate_documents
from galore.trainer.models.retnet.configuration_retnet import RetNetConfig
from galore.trainer.models.retnet.modeling_retnet import RetNetForCausalLM

TINY: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "chunk_size": 8,
}


def network(**more: Any) -> RetNetForCausalLM:
    torch.manual_seed(0)
    model = RetNetForCausalLM(RetNetConfig(**(TINY | more))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def tokens(rows: int, length: int) -> Tensor:
    return torch.randint(4, 64, (rows, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_one_by_one_gives_the_logits_of_all_at_once(dtype: torch.dtype, bound: float) -> None:
    model, ids = network().to(dtype), tokens(2, 21)
    with torch.no_grad():
        at_once = model(ids, use_cache=False).logits
        square = network(chunk_size=64).to(dtype)(ids, use_cache=False).logits
        out = model(ids[:, :10], use_cache=True)
        single = [out.logits]
        for t in range(10, 21):
            out = model(ids[:, t : t + 1], past_key_values=out.past_key_values, use_cache=True)
            single.append(out.logits)
    assert (square - at_once).abs().max() < bound * at_once.abs().max()
    assert (torch.cat(single, dim=1) - at_once).abs().max() < bound * at_once.abs().max()


def test_generation_keeps_one_state_however_long_it_goes_on() -> None:
    model, ids = network(), tokens(1, 5)
    sizes = []
    for more in (3, 30):
        out = model.generate(ids, max_new_tokens=more, do_sample=False, return_dict_in_generate=True)
        sizes.append(sum(state.nbytes for state in out.past_key_values.states))
    assert sizes[0] == sizes[1] == 2 * 3 * 8 * 16 * 4  # layers, heads, keys, values, bytes
    plain = ids
    with torch.no_grad():
        for _ in range(30):
            plain = torch.cat((plain, model(plain, use_cache=False).logits[:, -1:].argmax(-1)), dim=1)
    assert out.sequences.tolist() == plain.tolist()


def test_generation_with_padding_on_the_left_and_with_beams() -> None:
    model, ids = network(), tokens(2, 6)
    settings = {"max_new_tokens": 8, "do_sample": False, "num_beams": 2}
    alone = model.generate(ids, **settings)
    padded = torch.cat((torch.zeros(2, 3, dtype=torch.long), ids), dim=1)
    mask = (torch.arange(9) >= 3).long().expand(2, 9)
    assert model.generate(padded, attention_mask=mask, **settings)[:, 3:].tolist() == alone.tolist()


def test_documents_of_a_row_are_isolated_and_it_is_said() -> None:
    model = network()
    assert isolate_documents(model) == ["documents of a row: isolated by a state that begins anew with each"]
    ids, positions = tokens(1, 20), torch.cat((torch.arange(7), torch.arange(13)))[None]
    with torch.no_grad():
        packed = model(ids, use_cache=False, **model_arguments(positions, torch.device("cpu"))).logits
        alone = model(ids[:, 7:], use_cache=False).logits
    torch.testing.assert_close(packed[:, 7:], alone, atol=1e-5, rtol=1e-5)


def test_recomputed_blocks_have_the_same_gradients() -> None:
    grads = []
    for recompute in (False, True):
        model = network().train()
        recompute_blocks(model, recompute)
        model(tokens(2, 12), labels=tokens(2, 12)).loss.backward()
        grads.append([parameter.grad for parameter in model.parameters()])
    for one, other in zip(*grads, strict=True):
        assert one is not None
        assert other is not None
        assert torch.equal(one, other)


def test_a_width_that_heads_cannot_share_is_refused() -> None:
    with pytest.raises(ValueError, match="hidden_size 25 is no multiple of 2 x num_attention_heads 3"):
        RetNetConfig(**(TINY | {"hidden_size": 25}))
