"""Products in 8 bits in whole models: which layers, on which devices, in every way a matrix is trained."""

from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import nn

from galore.kernels.device import meta_stands_for
from galore.kernels.ops.matmul import products
from galore.kernels.ops.matmul.draws import Draws
from galore.kernels.ops.matmul.formats import FORMATS
from galore.kernels.ops.matmul.products import EightBit
from galore.trainer.build import build_model
from galore.trainer.checkpoint.state import load_model, model_tensors
from galore.trainer.common.errors import UserError
from galore.trainer.data.rows.tokenbatch import TokenBatch
from galore.trainer.memory.trace.simulate import device_operations
from galore.trainer.models.changes.table import told
from galore.trainer.models.matmul import choose, install, layers
from galore.trainer.optim import multiply_by, to_int8
from galore.trainer.optimizer import attach_optimizer
from galore.trainer.recipe.schema.recipe import Recipe
from galore.trainer.recipe.schema.train import Matmul
from galore.trainer.step import train_step

VOCABULARY, CPU = 61, torch.device("cpu")
GALORE = {"method": "galore", "rank": 8, "update_proj_gap": 2}
WAYS = {
    "in the backward": GALORE,
    "in the hook": {**GALORE, "projection": "hook"},
    "int8 weights": {**GALORE, "weight_dtype": "int8"},
    "lora": {"method": "lora", "rank": 4, "train_modules": ["lm_head"]},
    "full": {"method": "full"},
}


def recipe(optim, matmul, **train):
    return Recipe.model_validate(
        {
            "model": {
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 3,
                "num_attention_heads": 2,
                "dtype": "bfloat16",
            },
            "data": {"source": "packaged", "max_length": 16},
            "optim": {"learning_rate": 1e-2, **optim},
            "train": {"max_steps": 4, "global_batch_size": 4, "micro_batch_size": 2, "matmul": matmul, **train},
        }
    )


def batch(step):
    ids = torch.randint(0, VOCABULARY, (4, 16), generator=torch.Generator().manual_seed(step))
    return TokenBatch(ids, ids.clone(), tuple(range(4)))


def built(optim, matmul, **train):
    torch.manual_seed(0)
    of = recipe(optim, matmul, **train)
    model, lines = build_model(of, VOCABULARY, "cpu", Path())
    return model, attach_optimizer(model, of, of.train.accumulation), lines


def losses(model, optimizer, steps, size=2):
    return [train_step(model, optimizer, batch(step), size, 1.0).loss_nats for step in steps]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", FORMATS)
def test_training_stays_near_that_in_the_weights_own_type(way, name):
    plain = losses(*built(WAYS[way], "bf16")[:2], range(3))
    eight = losses(*built(WAYS[way], name)[:2], range(3))
    assert eight != plain
    assert eight == pytest.approx(plain, rel=3e-3)


@pytest.mark.parametrize("how", [{"gradient_checkpointing": True}, {"stream_weights": True}], ids=str)
@pytest.mark.parametrize("way", ["in the backward", "int8 weights"])
def test_recomputed_and_streamed_blocks_give_the_same_bits(way, how):
    kept = losses(*built(WAYS[way], "int8")[:2], range(3))
    assert losses(*built(WAYS[way], "int8", **how)[:2], range(3)) == kept


def test_accumulated_micro_batches_are_each_rounded_by_other_bits():
    model, optimizer, _ = built(GALORE, "int8")
    numbers = []
    for layer in layers.eight_bit_layers(model)[0].values():
        of = layer.products.draws.of
        vars(layer.products)["draws"] = type(
            "Seen", (), {"of": lambda _, n, of=of: numbers.append(of(n)) or numbers[-1]}
        )()
    losses(model, optimizer, [0])
    numbers.clear()
    losses(model, optimizer, [1])
    assert len({each.words for each in numbers}) == len(numbers) == 2 * 2 * 3 * 7  # each: both factors, micro-batches


@pytest.mark.parametrize("way", ["in the backward", "int8 weights"])
def test_a_resumed_run_has_the_same_bits(way):
    model, optimizer, _ = built(WAYS[way], "int8")
    losses(model, optimizer, range(2))
    weights = {name: tensor.clone() for name, tensor in model_tensors(model).items()}
    state = optimizer.state_dict()
    state = {
        "state": {k: dict(v) for k, v in state["state"].items()},
        "param_groups": [dict(g) for g in state["param_groups"]],
    }
    state["state"] = {k: {n: t.clone() for n, t in v.items()} for k, v in state["state"].items()}
    went_on = losses(model, optimizer, range(2, 4))
    again, of_again, _ = built(WAYS[way], "int8")
    load_model(again, weights)
    of_again.load_state_dict(state)
    assert losses(again, of_again, range(2, 4)) == went_on


def test_every_step_rounds_by_other_bits():
    model, optimizer, _ = built(GALORE, "int8")
    draws, words = getattr(model, install.ATTRIBUTE), []
    for step in range(2):
        losses(model, optimizer, [step])
        words.append(draws.of(0).words)
        draws.forget()
    assert words[0] != words[1]


@pytest.mark.parametrize("way", ["in the backward", "int8 weights", "lora"])
def test_the_input_of_several_layers_is_coded_once(way, monkeypatch):
    """q, k, v share one, gate and up another: bits are those of every layer by itself."""
    made = []
    own = products.row_codes
    monkeypatch.setattr(products, "row_codes", lambda *given, **named: made.append(given) or own(*given, **named))
    shared = losses(*built(WAYS[way], "int8")[:2], [0])
    once = len(made)
    monkeypatch.setattr(install, "users_of", lambda names: dict.fromkeys(names, 1))
    assert losses(*built(WAYS[way], "int8")[:2], [0]) == shared
    # of frozen weights the first block's input wants no gradient; a subspace takes a second pass over the micro-batches
    backward, passes = (7 * 3 - 3, 2) if way == "lora" else (7 * 3, 4)
    assert (once, len(made) - once) == (passes * (4 * 3 + backward), passes * (7 * 3 + backward))


def test_what_is_evaluated_is_the_model_as_it_is_exported():
    model, _, _ = built(GALORE, "int8")
    plain, _, _ = built(GALORE, "bf16")
    with torch.no_grad():
        assert torch.equal(model(batch(0).input_ids).logits, plain(batch(0).input_ids).logits)


def test_layers_and_reasons():
    model, _, lines = built({**GALORE, "weight_dtype": "int8"}, "int8")
    chosen, left = layers.eight_bit_layers(model)
    assert len(chosen) == 3 * 7
    assert left == {"lm_head": layers.OUTSIDE}
    (line,) = [each for each in lines if each.startswith("products")]
    assert [line] == told(model, "train.matmul")
    for word in ("int8 (CPU, torch._int_mm)", "21 linear layers", "read as they are", "lm_head (outside the blocks"):
        assert word in line
    adapted, _, _ = built(WAYS["lora"], "int8")
    assert layers.ADAPTER in layers.eight_bit_layers(adapted)[1].values()
    assert not built(GALORE, "bf16")[2][-1].startswith("products")


def test_a_model_without_a_layer_for_them_is_refused():
    with pytest.raises(UserError, match="can multiply in int8: 0") as refused:
        install.multiply_in_eight_bits(nn.Sequential(nn.Linear(64, 64)), recipe(GALORE, "int8"), CPU)
    assert refused.value.where == "train.matmul"


def card(capability, monkeypatch):
    monkeypatch.setattr(choose, "capability", lambda _: capability)
    return torch.device("meta")


@pytest.mark.parametrize(
    ("name", "capability", "tokens", "form"),
    [
        ("auto", (8, 9), 4096, "int8"),
        ("auto", (8, 9), 100, None),
        ("auto", (9, 0), 4096, None),
        ("auto", (7, 5), 4096, None),
        ("int8", (8, 6), 1, "int8"),
        ("fp8", (8, 9), 1, "fp8"),
        ("bf16", (8, 9), 4096, None),
    ],
)
def test_the_format_on_a_card(name, capability, tokens, form, monkeypatch):
    with meta_stands_for("cuda"):
        found = choose.chosen_format(name, card(capability, monkeypatch), tokens)
    assert (found.form and found.form.name) == form
    assert bool(found.why) == (name != "bf16")


@pytest.mark.parametrize(("name", "capability", "backend", "why"), [
    ("fp8", (8, 6), "auto", "8.6, and they need 8.9"),
    ("int8", (7, 5), "auto", "7.5, and they need 8.0"),
    ("int8", (8, 9), "torch", "need Triton's kernels"),
])  # fmt: skip
def test_what_a_card_cannot_do_is_refused(name, capability, backend, why, monkeypatch):
    monkeypatch.setenv("GALORE_BACKEND", backend)
    with meta_stands_for("cuda"), pytest.raises(UserError, match=why) as refused:
        choose.chosen_format(name, card(capability, monkeypatch), 4096)
    assert "auto" in str(refused.value.fix)


def test_the_cpu_says_how_and_auto_leaves_it():
    assert "torch._int_mm" in choose.chosen_format("int8", CPU, 1).why
    assert "emulated" in choose.chosen_format("fp8", CPU, 1).why
    assert choose.chosen_format("auto", CPU, 10**6).form is None


def test_the_recipe_names_every_format():
    assert set(get_args(Matmul)) == {"bf16", "auto", *FORMATS}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_a_step_is_traced_without_the_device(name, kind):
    """Every tensor that the products make is on `meta`, so that memory and time are predicted."""
    with meta_stands_for(kind), device_operations(kind, (8, 9)):
        layer = nn.Linear(256, 160, bias=False, dtype=torch.bfloat16, device="meta")  # groups on both sides
        to_int8(layer)
        multiply_by(layer, EightBit(FORMATS[name], Draws(0)))
        layer.receive = lambda factors: None
        x = torch.empty(8, 256, dtype=torch.bfloat16, device="meta", requires_grad=True)
        y = layer(x)
        y.backward(torch.empty_like(y))
        assert y.is_meta
        assert x.grad.is_meta
