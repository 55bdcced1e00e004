"""Documents of a packed row: each gives the loss and gradients that it gives alone, in whatever model, or is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from architectures import VOCABULARY, decoder
from packaging import version
from torch import Tensor, nn

from galore.trainer.build import build_model
from galore.trainer.common.errors import UserError
from galore.trainer.data.rows.tokenbatch import TokenBatch, model_arguments
from galore.trainer.models import cpu
from galore.trainer.models.cpu import optimize_decoder
from galore.trainer.models.head import split_head
from galore.trainer.models.isolation import PREFIX, isolate_documents
from galore.trainer.recipe.load import LoadedRecipe

Tiny = Callable[..., LoadedRecipe]

BOUNDED = ("llama", "llama-odd", "mistral", "qwen2-window", "qwen3", "gemma3", "gpt2", "phi3")  # groups, windows, heads
CAPPED = ("gemma2", "gpt-oss")  # scores that are soft-capped, or have a sink
MASKED = ("stablelm", "gptneo")  # architectures that do not hand on what they are told
OLDER = ("gemma2",) if version.parse(transformers.__version__) < version.parse("5.23") else ()  # nor did these
LEAKING = ("mamba", "bloom", "lfm2")
DOCUMENTS = [[10, 14], [3, 12, 9]]  # lengths, row after row; windows are of 8
NUMBERS = {torch.float64: 1e-10, torch.float32: 1e-5}
FLOAT32_INSIDE = ("gemma2", "gemma3", "gptneo", "gpt-oss")  # norms or scores, whatever the weights are


def batch_of(documents: list[list[Tensor]]) -> TokenBatch:
    ids = torch.stack([torch.cat(row) for row in documents])
    positions = torch.stack([torch.cat([torch.arange(len(each)) for each in row]) for row in documents])
    return TokenBatch.of(ids.numpy(), ids.numpy(), range(len(ids)), positions.numpy())


@pytest.fixture
def documents() -> list[list[Tensor]]:
    generator = torch.Generator().manual_seed(3)
    return [[torch.randint(4, VOCABULARY, (size,), generator=generator) for size in row] for row in DOCUMENTS]


def graded(model: nn.Module, *batches: TokenBatch) -> tuple[float, dict[str, Tensor]]:
    """The summed loss of all, and its gradients."""
    model.zero_grad()
    total = 0.0
    for batch in batches:
        loss = batch.losses(model, split_head).total
        loss.backward()
        total += float(loss.detach())
    return total, {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}


def alone(documents: list[list[Tensor]]) -> list[TokenBatch]:
    every = (each[None] for row in documents for each in row)
    return [TokenBatch(ids, ids, (number,)) for number, ids in enumerate(every)]


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("family", [*BOUNDED, *CAPPED, *MASKED])
def test_packed_documents_give_what_each_gives_alone(family: str, dtype: torch.dtype, documents: Any) -> None:
    if (family, dtype) == ("gpt-oss", torch.float64):
        pytest.skip("torch multiplies experts in float32 at most")
    model = decoder(family).to(dtype).eval()  # without dropout
    loss, gradients = graded(model, *alone(documents))
    (line,) = isolate_documents(model)
    assert ("mask" in line) is (family in (*MASKED, *OLDER))
    found, others = graded(model, batch_of(documents))
    error = NUMBERS[torch.float32 if family in FLOAT32_INSIDE else dtype]
    assert found == pytest.approx(loss, rel=error)
    assert others.keys() == gradients.keys()
    for name, truth in gradients.items():
        assert (others[name] - truth).abs().max() <= error * max(1.0, float(truth.abs().max())), name


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen3", "gemma2"])
def test_another_neighbour_changes_no_bit(family: str, documents: Any) -> None:
    model = decoder(family).eval()
    isolate_documents(model)
    batch = batch_of(documents)
    assert batch.positions is not None
    arguments = model_arguments(batch.positions, torch.device("cpu"))
    other = batch.input_ids.clone()
    other[:, :3] = other[:, :3].flip(1) + 1  # in the first document of either row
    other[0, 3:10] -= 3
    with torch.no_grad():
        first, second = (
            model(input_ids=ids % VOCABULARY, use_cache=False, **arguments).logits for ids in (batch.input_ids, other)
        )
    assert not torch.equal(first, second)
    assert torch.equal(first[0, 10:], second[0, 10:])
    assert torch.equal(first[1, 3:], second[1, 3:])


@pytest.mark.parametrize("family", LEAKING)
def test_what_cannot_be_isolated_is_refused(family: str) -> None:
    with pytest.raises(UserError, match=r"cannot be isolated in .*see each other") as error:
        isolate_documents(decoder(family))
    assert error.value.fix is not None
    assert "data.packing: paper" in error.value.fix


def test_the_first_token_of_a_document_is_no_target(documents: Any) -> None:
    batch = batch_of(documents)
    assert batch.targets == sum(length - 1 for row in DOCUMENTS for length in row)
    part = batch.rows(1, 2)
    assert part.positions is not None
    assert part.positions[0].tolist() == [*range(3), *range(12), *range(9)]
    assert batch.shard(1, 2).positions is not None


def test_whole_sequences_go_where_they_went(documents: Any) -> None:
    model = decoder("llama")
    ids = torch.cat(documents[0])[None]
    plain, (loss, _) = TokenBatch(ids, ids, (0,)), graded(model, TokenBatch(ids, ids, (0,)))
    isolate_documents(model)
    assert model.config._attn_implementation == f"{PREFIX}sdpa"
    assert graded(model, plain)[0] == loss
    assert graded(model, batch_of(documents[:1]))[0] != loss
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("galore.trainer.models.isolation.segment_attention", None)  # neither here nor in generation
        model.generate(ids, max_new_tokens=2, do_sample=False)


def test_our_own_attention_is_that_of_each_document(monkeypatch: pytest.MonkeyPatch, documents: Any) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    model = decoder("llama").to(torch.bfloat16)
    assert "bf16 products" in optimize_decoder(model)[0]
    isolate_documents(model)
    split_head(model)  # tries the model once
    seen, kernel = [], cpu.causal_attention

    def counted(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
        seen.append(q.shape[2])
        return kernel(q, k, v, scale)

    monkeypatch.setattr(cpu, "causal_attention", counted)
    found, _ = graded(model, batch_of(documents))
    assert sorted(seen) == sorted(2 * [length for row in DOCUMENTS for length in row])  # of two layers
    monkeypatch.setattr(cpu, "causal_attention", kernel)
    assert found == pytest.approx(graded(model, *alone(documents))[0], rel=1e-3)


def test_recomputed_and_offloaded_blocks_keep_to_the_bounds(tiny: Tiny, documents: Any) -> None:
    rows = [[each % 256 for each in row] for row in documents]
    results = []
    for settings in (
        (),
        ("train.gradient_checkpointing=true",),
        ("train.gradient_checkpointing=true", "train.offload_activations=true"),
    ):
        recipe = tiny("data.isolate_documents=true", "model.dtype=float32", *settings).recipe
        model, lines = build_model(recipe, 256, "cpu", Path())
        assert any(line.startswith("documents of a row: isolated") for line in lines)
        results.append(graded(model, batch_of(rows)))
    (loss, gradients), *others = results
    assert loss == pytest.approx(graded(model, *alone(rows))[0], rel=1e-5)
    for other, found in others:
        assert other == loss
        assert all(torch.equal(found[name], truth) for name, truth in gradients.items())


def test_a_mask_beside_the_bounds_lets_nothing_through(documents: Any) -> None:
    """A cache keeps transformers from seeing that rows are packed: its mask of a window would let them leak."""
    model, batch = decoder("mistral").eval(), batch_of(documents)
    isolate_documents(model)
    assert batch.positions is not None
    arguments = model_arguments(batch.positions, torch.device("cpu"))
    cached, plain = (model(input_ids=batch.input_ids, use_cache=use, **arguments).logits for use in (True, False))
    assert torch.equal(cached, plain)


def test_adapters_pass_the_bounds_on(tiny: Tiny, documents: Any) -> None:
    recipe = tiny("data.isolate_documents=true", "model.dtype=float32", "optim.method=lora").recipe
    model, _ = build_model(recipe, 256, "cpu", Path())
    rows = [[each % 256 for each in row] for row in documents]
    loss, _ = graded(model, batch_of(rows))
    assert loss == pytest.approx(graded(model, *alone(rows))[0], rel=1e-5)
