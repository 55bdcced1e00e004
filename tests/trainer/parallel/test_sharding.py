"""Weights in parts on two ranks against one process that has them whole: steps, bytes, checkpoints, whole runs."""

import json
import os
import runpy
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import architectures
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from galore.trainer.checkpoint.checkpoint import newest_verified
from galore.trainer.checkpoint.exported import refuse_bare_checkpoint
from galore.trainer.checkpoint.parts.parted import own_states, put_weight
from galore.trainer.checkpoint.tensorfile import Parted
from galore.trainer.common.errors import UserError
from galore.trainer.common.format import size
from galore.trainer.data.score import in_step
from galore.trainer.optim.parts.shards import Shard, local, scatter, shard_of
from galore.trainer.parallel import giving, sharding
from galore.trainer.parallel.entered import entered, is_sharded
from galore.trainer.parallel.group import Group
from galore.trainer.parallel.partedtraffic import seconds
from galore.trainer.record.shown import report
from galore.trainer.trained.runmodel import load_run_model

SCRIPT = Path(__file__).with_name("sharded_ranks.py")
RANKS = runpy.run_path(str(SCRIPT))
CARRY_OUT = runpy.run_path(str(SCRIPT.parents[1] / "two_runs.py"))["carry_out"]
TINY = [
    "model.hidden_size=32", "model.intermediate_size=48", "model.num_hidden_layers=2", "model.num_attention_heads=4",
    "model.dtype=float32", "data.max_length=32", "optim.rank=8", "train.global_batch_size=4",
    "train.micro_batch_size=1", "train.device=cpu", "eval.sample_prompt=The", "eval.sample_tokens=3",
    "train.max_steps=4", "train.save_steps=2", "eval.eval_steps=2", "eval.max_tokens=500", "optim.update_proj_gap=2",
    "train.gradient_checkpointing=true", "train.save_best=true",
]  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("sharding")


@pytest.fixture(scope="module")
def trained(root, chat_tokenizer):
    """What the ranks came to, one process, and what the ranks' runs told."""
    parted = {"recipe": "demo", "overrides": [*TINY, "parallel.mode=fsdp"]}
    written = parted | {"overrides": [*parted["overrides"], "parallel.checkpoints=parts"]}
    jobs = {
        "parted": parted | {"out": str(root / "parted")},
        "parted on": parted | {"out": str(root / "parted on"), "since": str(root / "parted")},
        "whole on": parted | {"out": str(root / "whole on"), "since": str(root / "whole")},
        "in parts": written | {"out": str(root / "in parts")},
        "parts from whole": written | {"out": str(root / "parts from whole"), "since": str(root / "parted")},
        "whole from parts": parted | {"out": str(root / "whole from parts"), "since": str(root / "in parts")},
        "other rates": parted
        | {"out": str(root / "other rates"), "since": str(root / "parted")}
        | {"overrides": [*parted["overrides"], "train.max_steps=9"]},
        "uneven": parted
        | {"out": str(root / "uneven"), "overrides": [*parted["overrides"], "train.global_batch_size=5"]},
        "columns": parted
        | {"out": str(root / "columns"), "overrides": [*parted["overrides"], "model.intermediate_size=49"]},
    }
    experts = [*TINY, *architectures.routed(root / "mixtral", 300), f"data.tokenizer={chat_tokenizer}"]
    jobs["routed parted"] = parted | {"overrides": [*experts, "parallel.mode=fsdp"], "out": str(root / "routed parted")}
    (root / "jobs").write_text(json.dumps(jobs))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "draw", lambda history: {})
        whole = {"recipe": "demo", "overrides": TINY, "out": root / "whole"}
        assert "error" not in CARRY_OUT(whole, None)
        assert "error" not in CARRY_OUT(whole | {"overrides": experts, "out": root / "routed"}, None)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            where = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        command = [sys.executable, SCRIPT, root / "out", root / "jobs"]
        ranks = [subprocess.Popen(command, env=os.environ | where | {"RANK": r, "LOCAL_RANK": r}) for r in "01"]
        try:
            alone = RANKS["every_method"](None)
            assert [rank.wait(120) for rank in ranks] == [0, 0]
        finally:
            for rank in ranks:
                rank.kill()
                rank.wait()
        for name, since in (("alone on", "parted"), ("alone from parts", "in parts")):
            on = CARRY_OUT(whole | {"out": root / name, "since": root / since}, None)
            assert "error" not in on, on
    found = [torch.load(f"{root}/out.{rank}", weights_only=True) for rank in "01"]
    return found, alone, [json.loads((root / f"out.{rank}.json").read_text()) for rank in "01"]


@pytest.mark.parametrize("method", RANKS["METHODS"])
def test_two_ranks_take_the_steps_of_one_process(trained, method):
    (first, second), alone = (each[method] for each in trained[0]), trained[1][method]
    close = 2e-2 if method in RANKS["INEXACT"] else 1e-5
    assert repr(first["norms"]) == repr(second["norms"])
    assert first["norms"] == pytest.approx(alone["norms"], rel=close, nan_ok=True)
    assert first["losses"] == pytest.approx(alone["losses"], rel=close, nan_ok=True)
    for group in ("model", "optimizer"):
        for name, tensor in alone["saved"][group].items():
            assert (
                torch.equal(first["saved"][group][name], second["saved"][group][name])
                if name in first["saved"][group]
                else "own" in method
            )
            if method not in RANKS["INEXACT"]:
                apart = (first["saved"][group][name].double() - tensor.double()).abs() - 1e-4 * tensor.double().abs()
                coded = RANKS["CODED"].get(method)
                # of 32768 elements a code moves 64, and what follows from that moves few codes
                assert float((apart > 1e-5).double().mean()) <= (0.05 if coded else 0)
                assert not tensor.is_floating_point() or float(apart.max()) <= (coded or 1e-5)


@pytest.mark.parametrize("method", RANKS["METHODS"])
def test_nan_on_one_rank_skips_the_step_on_all(trained, method):
    expected = [step == RANKS["POISONED"] for step in range(RANKS["STEPS"])]
    assert [each[method]["skipped"] for each in (*trained[0], trained[1])] == [expected] * 3


@pytest.mark.parametrize("method", RANKS["METHODS"])
def test_what_is_sent_is_what_is_predicted(trained, method):
    for rank in trained[0]:
        steps = list(zip(rank[method]["sent"], rank[method]["predicted"], strict=True))
        sent, predicted = steps.pop(RANKS["POISONED"])
        assert sent <= predicted  # in nan nobody looks for a subspace
        assert all(sent == predicted for sent, predicted in steps), steps


@pytest.mark.parametrize("method", RANKS["METHODS"])
def test_states_come_back_to_the_bit_and_a_rank_holds_half_of_them(trained, method):
    assert all(rank[method]["comes back"] for rank in trained[0])
    whole = sum(each.nbytes for each in trained[1][method]["saved"]["optimizer"].values())
    bases = sum(t.nbytes for name, t in trained[1][method]["saved"]["optimizer"].items() if "projector" in name)
    held = trained[0][0][method]["bytes"]
    assert held == pytest.approx((whole - bases) / 2 + bases, rel=0.02)


def test_8_bit_moments_in_blocks_of_a_rank_are_read_by_one_process(trained):
    saved = trained[0][0]["8bit, blocks of its own"]["saved"]["optimizer"]
    scales = [name for name in saved if name.endswith("_absmax_of_2")]
    assert scales
    _, optimizer, _ = RANKS["build"]("8bit, blocks of its own", None)
    optimizer.load_state_tensors(own_states(optimizer, saved), 3)
    slot = next(each for each in optimizer.slots.values() if f"{each.name}.exp_avg_absmax_of_2" in saved)
    codes, own = saved[f"{slot.name}.exp_avg"], slot.state["exp_avg"]
    assert own.shape == codes.shape
    assert slot.state["exp_avg_absmax"].max() == pytest.approx(
        float(saved[f"{slot.name}.exp_avg_absmax_of_2"].max()), rel=0.02
    )


def test_random_bits_of_parts_change_as_many_codes_as_those_of_another_seed(trained):
    """Bits belong to a part: a weight in parts is rounded as one process would with another seed, and no worse."""
    parts, one = trained[0][0]["int8, stochastic"], trained[1]["int8, stochastic"]
    other = RANKS["run"]("int8, stochastic", None, seed=1)
    names = [name for name, each in one["saved"]["model"].items() if each.dtype == torch.int8]
    assert names
    for name in names:
        codes, in_parts, control = (each["saved"]["model"][name].float() for each in (one, parts, other))
        unlike, expected = (float((codes - each).square().mean().sqrt()) for each in (in_parts, control))
        assert expected > 0.1
        assert unlike == pytest.approx(expected, rel=0.3)
        assert abs(float((in_parts - codes).mean())) < 0.1 * expected


def rows(out, kind):
    found = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row for row in found if row["kind"] == kind]


@pytest.mark.parametrize("name", ["parted", "parted on", "whole on", "alone on", "alone from parts", "routed parted"])
def test_a_run_in_parts_is_the_run_of_one_process(root, trained, name):
    whole = "routed" if "routed" in name else "whole"
    for kind, keys in (("train", ("loss_nats", "grad_norm")), ("eval", ("loss_nats",))):
        for alone, other in zip(rows(root / whole, kind), rows(root / name, kind), strict=True):
            for key in (*keys, *(["router_loss"] if (whole, kind) == ("routed", "train") else [])):
                assert other[key] == pytest.approx(alone[key], rel=1e-5)
            assert other.get("sample") == alone.get("sample")
    assert {path.name for path in (root / name).iterdir()} == {path.name for path in (root / whole).iterdir()}


def last(run):
    return max((run / "checkpoints").glob("step-*"))


def test_in_as_many_parts_it_goes_on_to_the_bit(root, trained):
    for file in ("model.safetensors", "optimizer.safetensors"):
        assert (last(root / "parted") / file).read_bytes() == (last(root / "parted on") / file).read_bytes()


@pytest.mark.parametrize("method", RANKS["METHODS"])
def test_files_of_parts_hold_what_was_gathered_and_give_a_rank_its_own_to_the_bit(trained, method):
    for rank in trained[0]:
        assert [rank[method][f"files {what}"] for what in ("are the whole", "come back", "are let go")] == [True] * 3


@pytest.mark.parametrize("name", ["in parts", "parts from whole", "whole from parts"])
def test_however_a_checkpoint_is_written_a_run_goes_on_to_the_bit(root, trained, name):
    (parted, _), (other, skipped) = (newest_verified(root / run / "checkpoints") for run in ("parted", name))
    assert (other.step, skipped) == (4, [])
    for group in parted.groups:
        whole, here = parted.load(group), other.load(group)
        assert whole.keys() == here.keys()
        assert all(torch.equal(whole[key].flatten(), here[key].flatten()) for key in whole)
    parts = {path.name for path in other.path.glob("*.part-*")}
    assert len(parts) == (0 if name == "whole from parts" else 4)
    assert [row["loss_nats"] for row in rows(root / name, "train")] == [
        row["loss_nats"] for row in rows(root / "parted", "train")
    ]


def test_a_checkpoint_in_parts_is_evaluated_like_any_other_and_names_no_model(root, trained):
    ours, theirs = (load_run_model(str(root / run)).model.state_dict() for run in ("in parts", "parted"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert ", checkpoints too; " in trained[2][0]["in parts"]["header"]["ranks"]
    folder = last(root / "in parts")
    assert not list(folder.glob("config.json"))
    with pytest.raises(UserError, match=r"of adapters, in parts, .*\n.*galore export RUN OUT"):
        refuse_bare_checkpoint(str(folder))


def test_a_checkpoint_is_that_of_one_process(root, trained):
    for file in ("model.safetensors", "optimizer.safetensors"):
        one, parts = (load_file(last(root / run) / file) for run in ("whole", "parted"))
        assert {name: (x.shape, x.dtype) for name, x in one.items()} == {
            n: (x.shape, x.dtype) for n, x in parts.items()
        }
    stored = load_run_model(str(root / "parted"))
    assert torch.equal(
        stored.model.lm_head.weight, load_file(last(root / "parted") / "model.safetensors")["lm_head.weight"]
    )


def test_the_header_and_run_json_say_what_is_sent(root, trained):
    told = json.loads((root / "parted" / "run.json").read_text())["parallel"]
    assert (told["mode"], told["ranks"]) == ("fsdp", 2)
    sent = sum(told["sent_bytes_per_step"].values())
    shown = trained[2][0]["parted"]["header"]
    assert shown["ranks"] == f"2 processes, gloo; fsdp, weights and states in parts; {size(sent)} sent a step"
    assert shown["model"].startswith("LlamaForCausalLM, ")


def test_ranks_with_unlike_numbers_of_micro_batches_are_refused(trained):
    assert "as many micro-batches on every process" in trained[2][0]["uneven"]["text"]
    assert trained[2][1]["uneven"]["error"] == "ToldElsewhere"


def test_other_rates_of_the_steps_that_are_done_are_told_by_the_first_rank(trained):
    assert "learning rate" in trained[2][0]["other rates"]["text"]
    assert trained[2][1]["other rates"]["error"] == "ToldElsewhere"


def test_columns_that_go_not_evenly_round_are_told_by_the_first_rank(trained):
    assert "49 columns are not divisible by 2 processes" in trained[2][0]["columns"]["text"]
    assert trained[2][1]["columns"]["error"] == "ToldElsewhere"


class Ranks:
    """Two ranks of which the other has the same."""

    rank, size = 1, 2

    def any_of(self, flags):
        return list(flags)

    def scatter_sum(self, rows):
        return 2 * rows[self.rank]

    def joined(self, own):
        return torch.stack([own, own])


def test_a_shard_is_as_many_as_any_other_but_for_the_last():
    parts = [Shard(1, 5, rank, 4) for rank in range(4)]
    whole = torch.arange(10).view(2, 5)
    assert torch.equal(torch.cat([each.of(whole) for each in parts], 1), whole)
    assert [each.stop - each.start for each in parts] == [2, 2, 1, 0]
    assert parts[1].at(2) == parts[2]
    assert parts[1].along(0, 8) == Shard(0, 8, 1, 4)
    assert torch.equal(Shard(0, 4, 1, 2).join(Ranks(), torch.ones(2, 3, dtype=torch.int16)), torch.ones(4, 3).short())


def test_nothing_to_scatter_asks_nobody():
    scatter(Ranks(), [], torch.device("cpu"))


def test_a_parameter_that_is_whole_has_no_shard():
    weight = nn.Parameter(torch.zeros(2, 3))
    assert shard_of(weight) is None
    assert local(weight).data_ptr() == weight.data_ptr()
    put_weight(weight, torch.ones(2, 3))
    assert weight.sum() == 6
    assert not is_sharded(nn.Linear(2, 2))
    assert entered(nn.Linear(2, 2), lambda: 5) == 5
    assert callable(sharding.shard)


@pytest.mark.parametrize(("rank", "own", "idle"), [(0, [3, 1, 2], []), (1, [1, 1], [3, 3, 2, 2])])
def test_ranks_make_as_many_forwards(rank, own, idle):
    class Two:
        size = 2

    Two.rank, made = rank, []
    taken = list(in_step([3, 1, 1, 1, 2], Two, lambda item: item, made.append))
    assert (taken, made) == (own, idle)


class Told(Group):
    """The group of a rank that hears `words` of the first, or says them."""

    def __init__(self, rank, words=()):
        super().__init__(rank, 2, sharded=True)
        self.said, self.words = [], list(words)

    def from_first(self, document=None):
        self.said.append(document)
        return self.words.pop(0) if self.words else document


def test_who_gives_stops_where_the_first_rank_breaks_off():
    asked = []
    size, own = torch.Size((2,)), torch.zeros(1)
    parts = {name: Parted(size, own.dtype, lambda name=name: asked.append(name), own, (0,)) for name in "abc"}
    with giving.giving({"model": parts, "rng": {"cpu": torch.zeros(1)}}, Told(1, [True, False])):
        assert asked == ["a"]
    asked.clear()
    first = Told(0)

    def write():
        with giving.giving({"model": parts}, first) as groups:
            groups["model"]["a"].gather()
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        write()
    assert (asked, first.said) == (["a"], [True, False])


def test_rings_carry_what_all_others_have_or_all_but_ones_own():
    from collections import Counter

    assert seconds(Counter(weights=1000), 4, 100.0) == 30.0
    assert seconds(Counter(gradients=1000), 4, 100.0) == 7.5
    assert seconds(Counter(sketches=1000), 4, 100.0) == 15.0


def test_runs_in_parts_leave_nothing_else(root, trained):
    assert not list((root / "parted" / "checkpoints").glob(".*"))
    shutil.rmtree(root / "parted on")
