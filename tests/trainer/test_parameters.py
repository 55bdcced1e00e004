"""The table that says what happens to every parameter, and the errors of wrong targets."""

from pathlib import Path

import pytest
from torch import nn

from galore.kernels.ops.int8 import int8_bytes
from galore.trainer.build import build_model
from galore.trainer.common.errors import UserError
from galore.trainer.data.tokens.tokenizer import given_tokenizer, id_bound
from galore.trainer.optimizer import build_optimizer
from galore.trainer.parameters import clamped_ranks, dry_run, left_full_rank, parameter_table, planned_vocabulary
from galore.trainer.recipe.load import load_recipe


def planned(name, *overrides):
    return {row.name: row for row in dry_run(load_recipe(name, overrides)).parameters}


def test_llama_7b_is_planned_without_memory_and_its_bytes_are_the_papers():
    rows = planned("llama-7b-galore-8bit")
    down = rows["model.layers.*.mlp.down_proj"]
    assert (down.tensors, down.shape, down.update, down.rank) == (32, (4096, 11008), "projected, left", 1024)
    assert rows["model.layers.*.self_attn.q_proj"].update == "projected, right"
    assert rows["lm_head"].update == "full rank"
    assert sum(row.count for row in rows.values()) == 6_738_415_616
    assert sum(row.weight_bytes for row in rows.values()) == 2 * 6_738_415_616
    projected = [row for row in rows.values() if row.rank]
    # 8-bit moments: one byte an element and one fp32 absmax per 256, twice
    elements = sum(row.tensors * 1024 * max(row.shape) for row in projected)
    assert sum(row.state_bytes for row in projected) == 2 * (elements + 4 * elements // 256)
    assert sum(row.projector_bytes for row in projected) == 2 * sum(
        row.tensors * 1024 * min(row.shape) for row in projected
    )


def test_a_tokenizer_that_is_here_says_how_many_rows(chat_tokenizer):
    """Its size is that of the run; of one elsewhere it is assumed, which is said."""
    settings = (f"data.tokenizer={chat_tokenizer}", "model.new_tokens=[<|im_more|>]")
    loaded = load_recipe("demo", settings)
    rows, notes = planned_vocabulary(loaded)
    tokenizer = given_tokenizer(loaded.recipe, loaded.base_dir)
    assert (rows, notes) == (id_bound(tokenizer) + 1, [])
    rows, notes = planned_vocabulary(load_recipe("demo", ["data.tokenizer=nobody/nowhere"]))
    assert rows == 32_000
    assert "nobody/nowhere is not here" in notes[0]


RATES = ("optim.head_learning_rate=0.002", "optim.embedding_learning_rate=5x")


@pytest.mark.parametrize("method", ["galore", "full", "lora"])
def test_head_and_embeddings_have_rates_of_their_own(method):
    in_full = ["optim.train_modules=[embed_tokens,lm_head]"] if method == "lora" else []
    rows = planned("demo", f"optim.method={method}", *in_full, *RATES)
    rates = {name.rpartition("model.")[2]: row.learning_rate for name, row in rows.items()}
    found = {rates.pop("embed_tokens"), rates.pop("lm_head")}
    assert found == {0.05, 0.002}
    assert set(rates.values()) == ({0.01, None} if method == "lora" else {0.01})


def test_tied_head_and_embedding_are_one_matrix_with_one_rate():
    for rate in RATES:
        rows = planned("demo", "model.tie_word_embeddings=true", rate)
        assert rows["model.embed_tokens"].learning_rate == {RATES[0]: 0.002, RATES[1]: 0.05}[rate]
    with pytest.raises(UserError, match="one matrix") as caught:
        planned("demo", "model.tie_word_embeddings=true", *RATES)
    assert caught.value.where == "optim.head_learning_rate"
    rows = planned("demo", "model.tie_word_embeddings=true", RATES[0], "optim.embedding_learning_rate=0.2x")
    assert rows["model.embed_tokens"].learning_rate == 0.002


def test_a_rate_of_what_is_not_trained_is_refused():
    with pytest.raises(UserError, match=r"0\.002 is of the head, and this run trains no such") as caught:
        planned("demo", "optim.method=lora", RATES[0])
    assert "optim.train_modules" in str(caught.value)


def test_a_classifiers_head_has_its_rate_projected_or_not(tiny_roberta):
    model = [f"model.name_or_path={tiny_roberta}", "data.max_length=64"]
    rows = planned("roberta-glue", *model, "optim.head_learning_rate=0.002")
    assert {name for name, row in rows.items() if row.learning_rate == 0.002} == {
        name for name in rows if name.startswith("classifier")
    }
    assert rows["classifier.dense"].rank
    assert rows["classifier.out_proj"].rank is None


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ([], ""),
        (["optim.residual=fira"], "6.03 MiB on the device; optim.gradient_sums: host keeps them in host memory"),
        (["optim.residual=fira", "train.micro_batch_size=4"], "12.1 MiB on the device; "),
        (["optim.method=full", "optim.gradient_sums=host"], "6.03 MiB in host memory, one at a time on the device"),
        (["optim.method=lora"], ""),
    ],
)
def test_what_whole_gradients_take_is_told(settings, told):
    notes = [note for note in dry_run(load_recipe("demo", settings)).notes if "summed whole" in note]
    assert [note.partition("summed whole: ")[2].startswith(told) for note in notes] == ([True] if told else [])
    assert all(note.startswith("gradients of 28 target matrices") for note in notes)


def test_weights_in_8_bits_are_planned_with_their_scales():
    plain, rows = planned("llama-7b-galore-8bit"), planned("llama-7b-galore-8bit", "optim.weight_dtype=int8")
    assert rows.keys() == plain.keys()
    for name, row in rows.items():
        targets = row.rank is not None
        assert row.weight_bytes == (row.tensors * int8_bytes(*row.shape) if targets else 2 * row.count)
        assert (row.count, row.update, row.rank) == (plain[name].count, plain[name].update, plain[name].rank)
        assert (row.state_bytes, row.projector_bytes) == (plain[name].state_bytes, plain[name].projector_bytes)
    targets = [row for row in rows.values() if row.rank]
    assert sum(row.weight_bytes for row in targets) / sum(row.count for row in targets) == pytest.approx(
        1.016, abs=5e-4
    )
    run = dry_run(load_recipe("demo", ["optim.weight_dtype=int8", "model.vocab_size=64"]))
    model, _ = build_model(load_recipe("demo", ["optim.weight_dtype=int8"]).recipe, 64, "meta", Path())
    parameters = sum(row.weight_bytes for row in run.parameters)
    rotary = model.model.rotary_emb
    assert parameters + rotary.inv_freq.nbytes + rotary.original_inv_freq.nbytes == sum(
        tensor.nbytes for tensor in (*model.parameters(), *model.buffers())
    )


def test_factors_leave_no_full_matrix_and_nothing_frozen():
    rows = planned("llama-60m", "optim.method=lora", "optim.adapter=factors")
    down = rows["model.layers.*.mlp.down_proj.factor_a"], rows["model.layers.*.mlp.down_proj.factor_b"]
    assert [(row.tensors, row.shape, row.update) for row in down] == [
        (8, (128, 1376), "full rank"),
        (8, (512, 128), "full rank"),
    ]
    assert "model.layers.*.mlp.down_proj" not in rows
    assert {row.update for row in rows.values()} == {"full rank"}
    assert all(row.state_bytes == 2 * 4 * row.count for row in rows.values())
    matrices = 8 * (4 * (512 + 512) + 3 * (512 + 1376)) * 128
    assert sum(row.weight_bytes for row in rows.values()) == 2 * (matrices + 2 * 32_000 * 512 + 17 * 512)


@pytest.mark.parametrize(("scale", "factor"), [("null", 1.0), ("0.5", 0.5)])
def test_scale_reaches_factors(scale, factor):
    recipe = load_recipe(
        "demo", ["optim.method=lora", "optim.adapter=factors", "model.vocab_size=64", f"optim.scale={scale}"]
    ).recipe
    model, _ = build_model(recipe, 64, "meta", Path())
    slots = build_optimizer(model, recipe.optim, accumulation=1, seed=0).slots.values()
    assert {slot.group["scale"] for slot in slots if "factor" in slot.name} == {factor}
    assert {slot.group["scale"] for slot in slots if "factor" not in slot.name} == {1.0}


def test_frozen_full_and_adapter_parameters_are_told_apart():
    pytest.importorskip("peft", reason="the lora extra is not installed")
    rows = planned("llama-60m-lora")
    updates = {row.update for row in rows.values()}
    assert updates == {"frozen", "full rank"}
    assert all(row.state_bytes == 0 for row in rows.values() if row.update == "frozen")


def test_a_rank_above_the_smaller_side_is_clamped_and_said():
    loaded = load_recipe("llama-60m-galore", ["model.num_key_value_heads=1", "optim.rank=128"])
    model, _ = build_model(loaded.recipe, 100, "meta", Path())
    (line,) = clamped_ranks(build_optimizer(model, loaded.recipe.optim, accumulation=1, seed=0))
    assert line.startswith("rank 128 clamped to 64, its smaller side, in model.layers.*.self_attn.k_proj")
    assert line.endswith("so in 16 of 56 projected matrices")


def test_a_rank_of_the_whole_smaller_side_is_said():
    for rank, lines in ((64, 1), (63, 0)):
        loaded = load_recipe("llama-60m-galore", ["model.num_key_value_heads=1", f"optim.rank={rank}"])
        model, _ = build_model(loaded.recipe, 100, "meta", Path())
        told = clamped_ranks(build_optimizer(model, loaded.recipe.optim, accumulation=1, seed=0))
        assert len(told) == lines
        assert not told or told[0].startswith(
            "rank 64 is the whole of the smaller side in model.layers.*.self_attn.k_p"
        )


class Attending(nn.Module):
    """Two layers whose queries, keys and values come from one bare parameter each."""

    def __init__(self):
        super().__init__()
        layers = (nn.TransformerEncoderLayer(32, 2, dim_feedforward=48) for _ in range(2))
        self.layers = nn.ModuleList(layers)
        self.head = nn.Linear(32, 8)


def test_a_matrix_that_is_no_layers_weight_is_said_to_stay_full_rank():
    optim = load_recipe("demo", ["optim.rank=4", "optim.target_modules=[self_attn, linear1]"]).recipe.optim
    optimizer = build_optimizer(Attending(), optim, accumulation=1, seed=0)
    assert {slot.name.split(".")[-2] for slot in optimizer.projected} == {"out_proj", "linear1"}
    assert left_full_rank(optimizer, optim.target_modules) == [
        "full-rank though under self_attn, linear1: layers.*.self_attn.in_proj_weight, 6,144 parameters that are no "
        "layer's `weight`"
    ]
    assert left_full_rank(optimizer, ["linear1"]) == []


def test_where_all_is_projected_or_nothing_there_is_nothing_to_say():
    for method in ("galore", "full"):
        loaded = load_recipe("demo", [f"optim.method={method}"])
        assert not [note for note in dry_run(loaded).notes if "full-rank" in note]


def test_a_rank_is_a_share_and_a_pattern_in_a_recipe_too():
    overrides = ["optim.rank=0.25", "optim.rank_pattern={mlp: 0.125, down_proj: 3}", "model.num_key_value_heads=1"]
    rows = planned("llama-60m-galore", *overrides)
    ranks = {kind.split(".")[-1]: row.rank for kind, row in rows.items() if row.rank}
    assert ranks == {
        **{"q_proj": 128, "k_proj": 16, "v_proj": 16, "o_proj": 128},
        **{"gate_proj": 64, "up_proj": 64, "down_proj": 3},
    }
    layer = {kind.split(".")[-1]: row for kind, row in rows.items()}
    q, down = layer["q_proj"], layer["down_proj"]
    assert q.state_bytes == 2 * 4 * q.tensors * 128 * 512
    assert down.state_bytes == 2 * 4 * down.tensors * 3 * 1376


def test_an_unmatched_target_is_a_user_error_that_names_the_nearest():
    loaded = load_recipe("llama-60m-galore", ["optim.target_modules=[self_attn,mpl]"])
    model, _ = build_model(loaded.recipe, 100, "meta", Path())
    with pytest.raises(UserError, match=r"'mpl' matches no weight matrix.*mlp"):
        build_optimizer(model, loaded.recipe.optim, accumulation=1, seed=0)


def test_every_parameter_is_in_the_table_once():
    loaded = load_recipe("llama-60m-galore", ["model.tie_word_embeddings=true"])
    model, _ = build_model(loaded.recipe, 100, "meta", Path())
    rows = parameter_table(model, build_optimizer(model, loaded.recipe.optim, accumulation=1, seed=0))
    assert sum(row.count for row in rows) == sum(p.numel() for p in model.parameters())
    assert "lm_head" not in {row.name for row in rows}
