"""Groups are strict: nothing is matched by accident, nothing is left out."""

import pytest
import torch
from torch import nn

from galore.trainer.optim import (
    GaLoreAdamW,
    adamw_groups,
    check_complete,
    galore_groups,
    large_matrices,
    target_modules,
)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.self_attn = nn.ModuleDict({"q_proj": nn.Linear(8, 8, bias=False)})
        self.mlp = nn.ModuleDict({"up_proj": nn.Linear(8, 16, bias=False)})
        self.norm = nn.LayerNorm(8)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(10, 8)
        self.layers = nn.ModuleList([Block(), Block()])


def names(group):
    return [name for name, _ in group["params"]]


def test_targets_are_path_components():
    assert list(target_modules(Model(), ["self_attn"])) == ["layers.0.self_attn.q_proj", "layers.1.self_attn.q_proj"]
    assert len(target_modules(Model(), ["1.mlp"])) == 1


def test_an_unmatched_pattern_is_an_error_that_names_the_nearest():
    with pytest.raises(ValueError, match=r"'self_atn' matches no weight matrix.*self_attn"):
        galore_groups(Model(), 4, targets=["mlp", "self_atn"])
    with pytest.raises(ValueError, match="matches no weight matrix"):
        target_modules(Model(), ["attn"])
    with pytest.raises(ValueError, match=r"the model has: 0, 2$"):
        target_modules(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)), ["mlp"])


def test_groups_cover_the_model_and_spare_vectors_from_decay():
    model = Model()
    target, matrices, vectors = galore_groups(model, 4, weight_decay=0.1)
    assert len(target["params"]) == 4
    assert names(matrices) == ["embed.weight"]
    assert all("norm" in name for name in names(vectors))
    assert [g["weight_decay"] for g in (target, matrices, vectors)] == [0.1, 0.1, 0.0]
    check_complete(model, [target, matrices, vectors])


def test_rates_and_stacked_biases_are_spared_from_decay() -> None:
    names = ("mixer.A_log", "att.time_mix_key", "experts.down_proj_bias", "experts.down_proj", "conv1d.weight")
    decayed, spared = adamw_groups([(name, nn.Parameter(torch.zeros(2, 3))) for name in names], 0.1)
    assert [name for name, _ in spared["params"]] == ["mixer.A_log", "att.time_mix_key", "experts.down_proj_bias"]
    assert [name for name, _ in decayed["params"]] == ["experts.down_proj", "conv1d.weight"]
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)


def test_a_decay_is_the_optimizers_where_the_groups_say_nothing_and_never_of_vectors():
    for groups, expected in [
        (galore_groups(Model(), 4), [0.3, 0.3, 0.0]),
        (galore_groups(Model(), 4, weight_decay=0.1), [0.1, 0.1, 0.0]),
    ]:
        assert [group["weight_decay"] for group in GaLoreAdamW(groups, weight_decay=0.3).param_groups] == expected


def test_a_parameter_nobody_updates_or_two_groups_update_is_an_error():
    model = Model()
    groups = galore_groups(model, 4)
    with pytest.raises(ValueError, match=r"no group updates embed\.weight"):
        check_complete(model, [groups[0], groups[2]])
    with pytest.raises(ValueError, match="in two groups: embed"):
        check_complete(model, [*groups, groups[1]])


def test_groups_without_names_are_complete_too():
    model = nn.Linear(3, 4)
    check_complete(model, [{"params": list(model.parameters())}])
    check_complete(model, [{"params": model.weight}, {"params": [("bias", model.bias)]}])
    with pytest.raises(ValueError, match="no group updates bias"):
        check_complete(model, [{"params": model.weight}])


def test_frozen_parameters_belong_to_no_group():
    model = Model()
    model.embed.weight.requires_grad_(False)
    groups = galore_groups(model, 4)
    check_complete(model, groups)
    assert "embed.weight" not in [name for group in groups for name in names(group)]
    for p in model.layers.parameters():
        p.requires_grad_(False)
    with pytest.raises(ValueError, match="is trainable"):
        galore_groups(model, 4)


def test_adamw_groups_leave_out_an_empty_one():
    assert len(adamw_groups([("bias", nn.Parameter(torch.ones(2)))], 0.1)) == 1


def test_a_rank_may_be_a_share_of_the_smaller_side_and_the_last_pattern_counts():
    model = Model()
    groups = galore_groups(model, 0.25, targets=["layers"], rank_pattern={"mlp": 0.5, "1.mlp": 3, "0.self_attn": 0.01})
    ranks = {name: group["rank"] for group in groups for name in names(group) if "rank" in group}
    assert ranks == {
        "layers.0.self_attn.q_proj.weight": 0.01,
        "layers.1.self_attn.q_proj.weight": 0.25,
        "layers.0.mlp.up_proj.weight": 0.5,
        "layers.1.mlp.up_proj.weight": 3,
    }
    check_complete(model, groups)
    slots = {slot.name: slot.rank for slot in GaLoreAdamW(groups).projected}
    assert [slots[name] for name in sorted(ranks)] == [
        4,
        1,
        3,
        2,
    ]  # of a smaller side of 8, in the order mlp, self_attn


def test_a_rank_pattern_that_matches_no_target_is_an_error():
    with pytest.raises(ValueError, match=r"'mlpp' of rank_pattern matches none"):
        galore_groups(Model(), 4, rank_pattern={"mlpp": 2})
    with pytest.raises(ValueError, match=r"'embed' of rank_pattern matches none"):
        galore_groups(Model(), 4, rank_pattern={"embed": 2})


def test_targets_under_the_name_that_recipes_have() -> None:
    net = nn.ModuleDict({"mlp": nn.Linear(4, 4), "other": nn.Linear(4, 4)})
    named = galore_groups(net, 2, target_modules=("mlp",))
    assert [name for name, _ in named[0]["params"]] == ["mlp.weight"]
    with pytest.raises(TypeError, match=r"write \('mlp',\)"):
        galore_groups(net, 2, targets="mlp")
    with pytest.raises(TypeError, match="give one"):
        galore_groups(net, 2, targets=("mlp",), target_modules=("mlp",))


# -- networks that are no language models


class Vision(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 64, 3)  # 64 × 27
        self.depthwise = nn.Conv2d(64, 64, 3, groups=64)
        self.grouped = nn.Conv2d(64, 128, 3, groups=2)
        self.pointwise = nn.Conv2d(64, 48, 1)
        self.up = nn.ConvTranspose2d(64, 32, 4)
        self.kernel = nn.Conv1d(64, 64, 3)
        self.time_mlp = nn.Linear(64, 64)
        self.labels = nn.Embedding(100, 64)
        self.kinds = nn.Linear(64, 10)


def test_large_matrices_leave_depthwise_and_small_kernels_alone() -> None:
    groups = galore_groups(Vision(), 0.25, targets=large_matrices())
    assert [name for name, _ in groups[0]["params"]] == [
        "pointwise.weight",
        "up.weight",
        "kernel.weight",
        "time_mlp.weight",
    ]
    smaller = galore_groups(Vision(), 0.25, targets=large_matrices(10, without=("time_mlp",)))
    assert [name for name, _ in smaller[0]["params"]] == [
        "first.weight",
        "pointwise.weight",
        "up.weight",
        "kernel.weight",
        "kinds.weight",
    ]


def test_a_function_chooses_by_the_whole_path_and_must_choose_something() -> None:
    model = Vision()
    groups = galore_groups(model, 4, targets=lambda name, _: name == "kinds")
    check_complete(model, groups)
    assert [name for name, _ in groups[0]["params"]] == ["kinds.weight"]
    with pytest.raises(ValueError, match="chooses none"):
        galore_groups(model, 4, targets=large_matrices(1000))
    with pytest.raises(ValueError, match="rank_pattern matches none of the chosen modules"):
        galore_groups(model, 4, targets=large_matrices(), rank_pattern={"kinds": 2})


class WithHead(Model):
    """As transformers' models say where their ends are; tied, both are one weight."""

    def __init__(self, tied):
        super().__init__()
        self.head = nn.Linear(8, 10, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def get_input_embeddings(self):
        return self.embed

    def get_output_embeddings(self):
        return self.head


@pytest.mark.parametrize(
    ("model", "of_head"), [(WithHead(False), ["head.weight"]), (WithHead(True), []), (Model(), [])]
)
def test_scale_keeps_a_momentum_for_a_head_of_its_own_alone(model, of_head):
    groups = galore_groups(model, None, inner="scale", scale=0.5)
    check_complete(model, groups)
    rules = {name: group.get("inner", "adamw") for group in groups for name in names(group)}
    assert [name for name, rule in rules.items() if rule == "scale-momentum"] == of_head
    assert {rule for name, rule in rules.items() if "proj" in name} == {"scale"}
    assert {rule for name, rule in rules.items() if "embed" in name or "norm" in name} == {"adamw"}
    GaLoreAdamW(groups)


@pytest.mark.parametrize(("tied", "head"), [(False, "head.weight"), (True, "embed.weight")])
def test_a_head_may_have_a_rule_of_its_own(tied, head):
    model = WithHead(tied)
    groups = galore_groups(model, 4, head_inner="soap")
    check_complete(model, groups)
    assert [names(group) for group in groups if group.get("inner") == "soap"] == [[head]]
    GaLoreAdamW(groups)


def test_a_rule_of_a_head_needs_one_that_is_trained_and_no_target():
    frozen = WithHead(False)
    frozen.head.requires_grad_(False)
    for model, targets in ((Model(), ["mlp"]), (frozen, ["mlp"]), (WithHead(False), ["mlp", "head"])):
        with pytest.raises(ValueError, match="head_inner='soap' is for a head that makes logits and is no target"):
            galore_groups(model, 4, targets=targets, head_inner="soap")
