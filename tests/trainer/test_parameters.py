"""The table that says what happens to every parameter, and the errors of wrong targets."""

from pathlib import Path

import pytest

from galore.trainer.build import build_model, dry_run
from galore.trainer.errors import UserError
from galore.trainer.parameters import build_optimizer, clamped_ranks, parameter_table
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


def test_frozen_full_and_adapter_parameters_are_told_apart():
    pytest.importorskip("peft", reason="the lora extra is not installed")
    rows = planned("llama-60m-lora")
    updates = {row.update for row in rows.values()}
    assert updates == {"frozen", "full rank"}
    assert all(row.state_bytes == 0 for row in rows.values() if row.update == "frozen")


def test_a_rank_above_the_smaller_side_is_clamped_and_said():
    loaded = load_recipe("llama-60m-galore", ["model.num_key_value_heads=1", "optim.rank=128"])
    model, _ = build_model(loaded.recipe, 100, "meta", Path())
    lines = clamped_ranks(build_optimizer(model, loaded.recipe.optim, accumulation=1, seed=0))
    assert [line.split(":")[0].split(".")[-2] for line in lines] == ["k_proj", "v_proj"]
    assert all("clamped to 64" in line for line in lines)


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
