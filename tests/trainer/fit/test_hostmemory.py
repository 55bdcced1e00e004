"""Host memory and bytes over the bus: predicted is what real steps take, and a machine is judged by it."""

from __future__ import annotations

import pytest

from galore.trainer.common.format import GIB
from galore.trainer.fit.hostmemory import INPUTS, PROCESS, SAVING, START, SYSTEM, HostProfile, host_profile
from galore.trainer.fit.verify import Verification, verify
from galore.trainer.recipe.load import LoadedRecipe, load_recipe

SMALL = ["train.device=cpu", "train.global_batch_size=2", "train.micro_batch_size=1", "data.max_length=16"]
SMALL += ["model.hidden_size=128", "model.intermediate_size=192", "model.num_attention_heads=2", "optim.rank=8"]
SMALL += ["data.tokenizer_vocab_size=400"]
STREAMED = "train.stream_weights=true"
CASES = {
    "streamed": [STREAMED],
    "codes, two there": [STREAMED, "optim.weight_dtype=int8", "train.gradient_checkpointing=true"],
    "immediate": [
        *(STREAMED, "optim.update=immediate", "optim.refresh=first-micro-batch", "optim.max_grad_norm=null"),
        "train.global_batch_size=1",
    ],
    "sums": ["optim.method=full", "optim.gradient_sums=host", "optim.accumulator_dtype=bfloat16"],
    "sums in fp32, streamed": [STREAMED, "optim.residual=apollo", "optim.proj_type=random", "optim.gradient_sums=host"],
}


def loaded(*settings: str) -> LoadedRecipe:
    return load_recipe("demo", [*SMALL, "model.num_hidden_layers=3", *settings])


QUICK = ("codes, two there", "sums in fp32, streamed")


@pytest.mark.parametrize("case", [pytest.param(e, marks=[] if e in QUICK else pytest.mark.slow) for e in CASES])
def test_what_waits_and_what_crosses_the_bus_is_as_predicted(case: str) -> None:
    found: Verification = verify(loaded(*CASES[case]))
    assert set(found.host) == {"on the host", "to the device in a step", "to the host in a step"}
    assert all(predicted == measured for predicted, measured in found.host.values())
    assert abs(found.predicted / found.measured - 1) < 0.01


def test_nothing_waits_where_everything_is_there() -> None:
    assert verify(loaded()).host == {}
    host = host_profile(loaded(), "cuda")
    assert not host.matters
    assert host.bus == (0, 0)


def test_processes_of_one_machine_are_added_up() -> None:
    settings = ("train.gradient_checkpointing=3", "train.offload_activations=true")
    one, four = (host_profile(loaded(*settings), "cuda", processes=count) for count in (1, 4))
    assert (four.process, four.pinned[INPUTS]) == (4 * one.process, 4 * one.pinned[INPUTS])
    assert (four.pageable[START], four.pageable[SAVING]) == (4 * one.pageable[START], one.pageable[SAVING])
    parts = host_profile(loaded("parallel.mode=fsdp"), "cuda", processes=4)
    plain = host_profile(loaded(), "cuda", processes=4)
    assert parts.pageable[START] - plain.pageable[START] == 4 * 2 * WEIGHTS, "each builds all of it, in bf16"


WEIGHTS = 2 * 400 * 128 + 3 * (4 * 128 * 128 + 3 * 128 * 192 + 2 * 128) + 128


def test_inputs_of_recomputed_blocks_wait_on_the_host_of_a_card_alone() -> None:
    settings = ("train.gradient_checkpointing=3", "train.offload_activations=true", "train.micro_batch_size=2")
    host, cpu = (host_profile(loaded(*settings), kind) for kind in ("cuda", "cpu"))
    each = 2 * 16 * 128 * 2
    assert host.pinned[INPUTS] == 3 * each
    assert cpu.pinned[INPUTS] == 0
    assert host.bus == (2 * each, 3 * each)
    longer = host_profile(loaded(*settings, "data.max_length=17"), "cuda")
    assert longer.pinned[INPUTS] == 3 * 2 * each, "the next power of two"


def test_each_phase_has_its_own() -> None:
    streamed, resident = (host_profile(loaded(each), "cuda") for each in (STREAMED, "train.stream_weights=false"))
    assert streamed.phases[START] > sum(streamed.pinned.values())
    assert resident.phases[START] < streamed.phases[START]
    assert streamed.pageable[SAVING] > 0
    assert host_profile(loaded(STREAMED), "cpu").pageable[SAVING] == 0, "it is saved from where it lies"
    assert streamed.total == max(streamed.phases.values()) + PROCESS["cuda"]


def test_a_machine_is_judged_with_what_others_need() -> None:
    host = HostProfile({"blocks of weights": 20 * GIB}, {START: 23 * GIB, SAVING: GIB}, 3 * GIB, (0, 0), 0)
    assert host.total == 26 * GIB
    assert host.fits(26 + SYSTEM / GIB)
    assert not host.fits(25.9 + SYSTEM / GIB)
    assert host.least_machine == 32
    assert (host.as_json(16)["fits"], host.as_json(None)["fits"]) == (False, None)
    assert HostProfile({}, {START: 2000 * GIB}, 0, (0, 0), 0).least_machine is None
