"""What is seen of attention is what runs, and watching it changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import architectures
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from galore.trainer.common.errors import UserError
from galore.trainer.losses.watch import Watch
from galore.trainer.models.checkpointing import recompute_blocks
from galore.trainer.models.cpu import optimize_decoder
from galore.trainer.models.isolation import isolate_documents

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
IDS = torch.arange(40).view(2, 20) * 7 % 50


def model(attention: str = "sdpa", sliding: int | None = None) -> Any:
    torch.manual_seed(0)
    more: dict[str, Any] = {"vocab_size": 50, "num_key_value_heads": 2, "attn_implementation": attention, **SIZES}
    if sliding is not None:
        return MistralForCausalLM(MistralConfig(sliding_window=sliding, **more))
    return LlamaForCausalLM(LlamaConfig(**more))


@pytest.mark.parametrize("sliding", [None, 5])
@pytest.mark.parametrize("attention", ["sdpa", "eager", "ours"])
def test_it_is_the_attention_of_the_model(attention: str, sliding: int | None) -> None:
    with torch.no_grad():
        expected = model("eager", sliding)(IDS, output_attentions=True)
        mine = model("eager" if attention == "eager" else "sdpa", sliding)
        if attention == "ours":
            optimize_decoder(mine)
        before = mine(IDS).logits
        watch = Watch(mine, [0, -1], ("attention", "hidden"))
        with watch.during():
            after = mine(IDS).logits
        assert torch.equal(before, after)
        assert list(watch.attention) == list(watch.hidden) == [0, 2]
        for layer, found in watch.attention.items():
            torch.testing.assert_close(found, expected.attentions[layer], rtol=1e-4, atol=1e-6)
        queries = torch.tensor([[3, 19], [0, 7]])
        with watch.during(queries):
            mine(IDS)
        for row, places in enumerate(queries):
            torch.testing.assert_close(
                watch.attention[2][row], expected.attentions[2][row][:, places], rtol=1e-4, atol=1e-6
            )
        kept = dict(watch.attention)
        mine(IDS[:1])
        assert watch.attention == kept


@pytest.mark.parametrize("name", ["gemma2", "gpt-oss"])
def test_scores_that_are_capped_and_sinks_are_those_of_the_model(name: str) -> None:
    network: Any = architectures.decoder(name).eval()
    network.set_attn_implementation("eager")
    queries = torch.tensor([[3, 19], [0, 7]])
    with torch.no_grad():
        for part, parameter in network.named_parameters():
            if "q_proj" in part or "k_proj" in part:
                parameter.mul_(20)
        expected = network(IDS, output_attentions=True, use_cache=False).attentions
        watch = Watch(network, [0, 1], ("attention",))
        for asked in (None, queries):
            with watch.during(asked):
                network(IDS, use_cache=False)
            for layer, found in watch.attention.items():
                whole = expected[layer]
                rows = (
                    whole
                    if asked is None
                    else torch.stack([each[:, at] for each, at in zip(whole, asked, strict=True)])
                )
                torch.testing.assert_close(found, rows, rtol=1e-4, atol=1e-6)


def test_scores_of_more_than_is_known_are_refused() -> None:
    mine = model()
    watch = Watch(mine, [0], ("attention",))
    with pytest.raises(UserError, match="takes position_bias, and cannot be shown"), watch.during():
        mine(IDS, position_bias=torch.zeros(20, 20))


@pytest.mark.parametrize("which", [True, 1])
def test_recomputed_blocks_give_the_same_gradients(which: bool | int) -> None:
    gradients = []
    for recomputed in (False, which):
        mine = model()
        watch = Watch(mine, [0, 1], ("attention", "hidden"))
        recompute_blocks(mine, recomputed)
        for _ in range(2):
            with watch.during(torch.tensor([[4, 9], [5, 6]])):
                logits = mine(IDS, use_cache=False).logits
            seen = sum(each.square().sum() for each in [*watch.attention.values(), *watch.hidden.values()])
            (logits.square().mean() + seen).backward()
        with torch.no_grad():
            mine(IDS)
        gradients.append([parameter.grad for parameter in mine.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("layers", "message"), [([3], "no block 3"), ([0, -4], "no block -4")])
def test_blocks_that_are_not_there(layers: Sequence[int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Watch(model(), layers, ("attention",))


def test_isolated_documents_do_not_show_theirs() -> None:
    mine = model()
    isolate_documents(mine)
    with pytest.raises(UserError, match="not shown"):
        Watch(mine, [0], ("attention",))
    Watch(mine, [0], ("hidden",))
