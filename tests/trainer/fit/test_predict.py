"""The central evidence: what is predicted on `meta` tensors is what a real run takes, to the byte where it can be."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import nn

from galore.kernels.ops.dispatch import ENVIRONMENT
from galore.kernels.ops.int8 import int8_bytes
from galore.kernels.storage import blockwise, rounding
from galore.trainer.build import build_model
from galore.trainer.fit.measure import measure
from galore.trainer.fit.predict import predict
from galore.trainer.machine.cards import Card, card
from galore.trainer.memory.trace.trace import Trace
from galore.trainer.optim import GaLoreAdamW
from galore.trainer.recipe.load import LoadedRecipe

Tiny = Callable[..., LoadedRecipe]
CPU = torch.device("cpu")
BLOCK = (
    2**13
)  # elements of a weight that are updated together, so that weights of this size have several, as large ones do
LAYERS = 2  # of the tiny model
LENGTH, ROWS = 32, 2  # tokens per sequence, sequences per micro-batch

GALORE = ("optim.method=galore", "optim.max_grad_norm=1e-9")  # clipped, as every prediction is
IMMEDIATE = ("optim.update=immediate", "optim.refresh=first-micro-batch", "optim.max_grad_norm=null")
METHODS: dict[str, tuple[str, ...]] = {
    "full": ("optim.method=full", "optim.max_grad_norm=1e-9"),
    "svd": (*GALORE, "optim.proj_type=svd"),
    "checkpointing": (*GALORE, "train.gradient_checkpointing=true"),
    "offloading": (*GALORE, "train.gradient_checkpointing=1", "train.offload_activations=true"),
    "8bit": (*GALORE, "optim.state_dtype=8bit"),
    "int8": (*GALORE, "optim.weight_dtype=int8"),
    "lora": ("optim.method=lora", "optim.max_grad_norm=1e-9"),
    "factors": ("optim.method=lora", "optim.adapter=factors"),
    "immediate": IMMEDIATE,
    "hook": (*GALORE, "optim.projection=hook"),
}
OFFLOADED = ("train.gradient_checkpointing=true", "train.offload_activations=true")
VARIANTS: dict[str, tuple[str, ...]] = {
    "random": (*GALORE, "optim.proj_type=random"),
    "rotate": (*GALORE, "optim.transport=rotate", "optim.state_dtype=8bit"),
    "fira": (*GALORE, "optim.residual=fira"),
    "apollo": (*GALORE, "optim.residual=apollo", "optim.proj_type=random"),
    "frugal": (*GALORE, "optim.residual=frugal"),
    "alice": (*GALORE, "optim.residual=alice", "optim.switch=0.7"),
    "complete": (*GALORE, "optim.residual=columns", "optim.transport=complete"),
    "orthogonal": (*GALORE, "optim.residual=orthogonal"),
    "joint": (*GALORE, "optim.residual=joint", "optim.inner=muon"),
    "normed": (*GALORE, "optim.residual=joint", "optim.inner=normuon"),
    "in parts": (*GALORE, "optim.residual=joint-4bit", "optim.inner=normuon"),
    "sampled": (*GALORE, "optim.residual=sampled", "optim.inner=muon"),
    "4bit": ("optim.method=full", "optim.max_grad_norm=1e-9", "optim.inner=normuon", "optim.state_dtype=4bit"),
    "racs": ("optim.method=full", "optim.max_grad_norm=1e-9", "optim.inner=racs"),
    "scale": ("optim.method=full", "optim.max_grad_norm=1e-9", "optim.inner=scale"),
    "soap": (*GALORE, "optim.inner=soap"),
    "soap at the head": (*GALORE, "optim.head_inner=soap"),
    "power": (*GALORE, "optim.proj_type=power", "optim.refresh=summed", "optim.transport=rotate"),
    "dct": (*GALORE, "optim.proj_type=dct", "optim.transport=rotate"),
    "muon": ("optim.method=full", "optim.max_grad_norm=1e-9", "optim.inner=muon"),
    "adafactor": ("optim.method=full", "optim.max_grad_norm=1e-9", "optim.inner=adafactor"),
    "sumo": (*GALORE, "optim.inner=sumo", "optim.transport=rotate"),
    "small card": (
        *GALORE,
        "optim.weight_dtype=int8",
        "optim.projector_dtype=int4",
        "optim.state_dtype=8bit",
        "optim.accumulator_dtype=bfloat16",
        "train.gradient_checkpointing=true",
    ),
    "int8 svd": (*GALORE, "optim.weight_dtype=int8", "optim.proj_type=svd"),
    "int8 checkpointing": (*GALORE, "optim.weight_dtype=int8", "train.gradient_checkpointing=true"),
    "int8 fira": (*GALORE, "optim.weight_dtype=int8", "optim.residual=fira"),
    "int8 float": (*GALORE, "optim.weight_dtype=int8", "model.dtype=float32"),
}
RUNS = [
    pytest.param(method, times, marks=[pytest.mark.slow] if times == 2 and method not in ("full", "svd") else [])
    for method in METHODS
    for times in (1, 2, 4)
    if method != "immediate" or times == 1
] + [pytest.param(method, times, marks=[pytest.mark.slow]) for method in VARIANTS for times in (1, 4)]


@pytest.fixture
def plain_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what is large only beside a tiny model: oneDNN's packing buffers, and the pool of rounding noise."""
    monkeypatch.setitem(rounding.BLOCK, "cpu", BLOCK)
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)


@pytest.mark.parametrize(("method", "accumulation"), RUNS)
def test_predicted_is_measured(tiny: Tiny, plain_cpu: None, tables: None, method: str, accumulation: int) -> None:
    """At the highest moment of every stage of every step, category by category; and the peak by the allocator's count.

    Real runs have four things beside, which stay on the host: token ids, step counters, the first sum of losses, and the state of the random
    generator that checkpointing keeps for each block.
    """
    layers = 1 if accumulation == 4 else LAYERS  # they repeat each other, and so do micro-batches: one at a time
    batch = f"train.global_batch_size={ROWS * accumulation}"
    loaded = tiny(*(METHODS | VARIANTS)[method], batch, f"model.num_hidden_layers={layers}")
    predicted, measured = predict(loaded, None), measure(loaded, CPU)
    expected, found = (highest(without_tables(trace)) for trace in (predicted, measured.trace))
    assert expected.keys() == found.keys()
    host = {"optimizer_states": 8 * 36, "logits_and_loss": 8 * ROWS * LENGTH * accumulation + 8}
    once = 8 * ROWS * LENGTH + 2 * 1024 * (
        method in ("8bit", "rotate")
    )  # ids of a micro-batch; the format's two maps, if new here
    for stage in expected:
        for name in expected[stage] | found[stage]:
            difference = found[stage].get(name, 0) - expected[stage].get(name, 0)
            least, most = (-once, 16) if name == "temporaries" else (0, host.get(name, 0))
            assert least <= difference <= most, f"{name} in the {stage}: {difference:+} bytes"

    beside = sum(host.values()) + (
        LAYERS * torch.get_rng_state().nbytes if method.endswith("checkpointing") or method == "offloading" else 0
    )
    peak = max(predicted.requested())
    assert -beside - 0.002 * peak <= peak - measured.allocator_bytes <= 0.002 * peak


@pytest.mark.parametrize("method", ["8bit", "rotate"])
def test_predicted_is_measured_without_bitsandbytes(
    tiny: Tiny, plain_cpu: None, tables: None, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blockwise, "bitsandbytes", lambda: (None, "blocked"))
    test_predicted_is_measured(tiny, plain_cpu, tables, method, 1)


@pytest.fixture(scope="module")
def tables() -> None:
    """Those of 8-bit codes, made once per process: an optimizer has taken a step."""
    parameter = nn.Parameter(torch.ones(64, 64))
    optimizer = GaLoreAdamW([parameter], state_dtype="8bit")
    parameter.sum().backward()
    optimizer.step()
    for signed, device in itertools.product((True, False), ("cpu", "meta")):
        blockwise.code(signed, torch.device(device))


def without_tables(trace: Trace) -> Trace:
    """A trace on `meta` makes a copy of them at every use."""
    for each in trace.allocations:
        if (each.dtype, each.nbytes) == ("int32", 4 * 2**16):
            each.nbytes = 0
    return trace


def highest(trace: Trace) -> dict[str, dict[str, int]]:
    """{"first step: forward": categories at its highest moment, …}."""
    curve, found = trace.requested(), {}
    ends = [at for at, _ in trace.marks[1:]] + [len(curve)]
    for (start, stage), end in zip(trace.marks, ends, strict=True):
        at = max(range(start, end), key=curve.__getitem__, default=None)
        if at is not None and curve[at] > sum(found.get(stage, {}).values()):
            found[stage] = trace.by_category(at)
    return found


@pytest.mark.parametrize(("method", "dtype"), [("full", "float32"), ("svd", "bfloat16")])
def test_the_peak_is_within_half_a_percent_of_the_allocators(tiny: Tiny, method: str, dtype: str) -> None:
    """With all that a real run takes, and nothing taken off."""
    loaded = tiny(*METHODS[method], f"model.dtype={dtype}", "data.max_length=128", "train.global_batch_size=4")
    measured = measure(loaded, CPU).allocator_bytes
    assert abs(max(predict(loaded, None).requested()) - measured) < 0.005 * measured


# -- on a card


def on_card(loaded: LoadedRecipe) -> Trace:
    return predict(loaded, card("rtx4090"))


def operations(trace: Trace) -> Counter[str]:
    return Counter(each.op for each in trace.allocations)


def test_a_card_takes_cudas_paths(tiny: Tiny) -> None:
    found, on_cpu = operations(on_card(tiny())), operations(predict(tiny(), None))
    flash = "_scaled_dot_product_flash_attention"
    assert found[flash]
    assert found[f"{flash}_backward"]
    assert on_cpu["baddbmm"], "our attention for the CPU"
    assert not found["baddbmm"]
    assert not any(name.endswith("for_cpu") for name in found)
    assert found["rsqrt"] > on_cpu["rsqrt"], "our norm for the CPU is one function of blocks"


def test_a_card_has_workspaces_and_the_cpu_casts(tiny: Tiny) -> None:
    loaded = tiny("optim.proj_type=svd")
    workspaces = {each.op for each in on_card(loaded).allocations if each.category == "workspaces"}
    assert {"_linalg_svd", "library workspace of the forward's thread"} <= workspaces
    casts = {each.op for each in predict(loaded, None).allocations if each.category == "workspaces"}
    assert casts
    assert not casts & {"_linalg_svd", "mm"}


MATRICES = {(64, 64), (176, 64), (64, 176)}


def test_one_order_of_sums_takes_more_of_a_card_and_nothing_of_a_cpu(tiny: Tiny) -> None:
    """cuBLAS' workspaces of 32 MiB, and attention's sums once per multiprocessor and head instead of once."""

    def held(card: Card | None, wanted: str) -> Counter[str]:
        trace = predict(tiny(f"train.deterministic={wanted}", "model.dtype=bfloat16"), card)
        return Counter(trace.by_category(len(trace.events) - 1) | {"most": max(trace.requested())})

    some, all_alike = held(card("rtx4090"), "false"), held(card("rtx4090"), "true")
    assert all_alike["workspaces"] - some["workspaces"] == 2 * (32 * 1024 - (2 * 4096 + 8 * 16)) * 1024
    assert all_alike["most"] > some["most"]
    assert held(None, "true") == held(None, "false")


def full_gradients(loaded: LoadedRecipe) -> set[str]:
    """The stages in whose backward a projected matrix has a gradient of its own size."""
    trace = on_card(loaded)
    return {
        trace.mark_at(each.born).partition(":")[0]
        for each in trace.allocations
        if trace.mark_at(each.born).endswith("backward") and each.shape in MATRICES
    }


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ((), {"first step"}),
        (("optim.proj_type=svd",), {"first step", "refresh step"}),
        (("optim.refresh=first-micro-batch",), {"first step", "refresh step"}),
        (("optim.projection=hook",), {"first step", "ordinary step", "refresh step"}),
        (("optim.method=full",), {"first step", "ordinary step"}),
    ],
)
def test_projected_in_the_backward_a_gradient_of_full_size_is_made_for_a_refresh_only(
    tiny: Tiny, settings: tuple[str, ...], expected: set[str]
) -> None:
    loaded = tiny("optim.stagger=false", "train.global_batch_size=4", "data.max_length=24", *settings)
    assert full_gradients(loaded) == expected


def test_gradient_checkpointing_trades_activations_for_recompute(tiny: Tiny) -> None:
    def highest_backward(*settings: str) -> dict[str, int]:
        return highest(on_card(tiny("optim.method=full", "data.max_length=128", *settings)))["ordinary step: backward"]

    kept, recomputed = highest_backward(), highest_backward("train.gradient_checkpointing=true")
    assert kept.get("recompute", 0) == 0 < recomputed["recompute"]
    assert recomputed["activations"] + recomputed["recompute"] < 0.7 * kept["activations"]


KEPT = 2 * 128 * 64 * 2  # bytes of a block's input: rows, tokens, width, bf16


def waiting(tiny: Tiny, *settings: str, layers: int = 6) -> int:
    """Bytes of activations when the backward of the ordinary step begins."""
    common = ("optim.method=full", "data.max_length=128", f"model.num_hidden_layers={layers}")
    trace = on_card(tiny(*common, *settings))
    (at,) = [at for at, what in trace.marks if what == "ordinary step: backward"]
    return trace.by_category(at - 1)["activations"]


def test_of_offloaded_inputs_the_last_one_is_on_the_card(tiny: Tiny) -> None:
    """Five of six wait on the host, at the end of the forward; with fewer blocks recomputed the others keep theirs."""
    on, all_of_them, four = (
        "train.offload_activations=true",
        "train.gradient_checkpointing=true",
        "train.gradient_checkpointing=4",
    )
    assert waiting(tiny, all_of_them) - waiting(tiny, all_of_them, on) == 5 * KEPT
    assert waiting(tiny, four) - waiting(tiny, four, on) == 3 * KEPT
    assert waiting(tiny, all_of_them, on) == waiting(tiny, all_of_them, on, layers=12), "however many blocks"


def test_every_block_that_is_not_recomputed_keeps_as_much(tiny: Tiny) -> None:
    kept = [waiting(tiny, f"train.gradient_checkpointing={value}") for value in ("false", 1, 2, 3, 4, 5, "true")]
    each = [fewer - more for fewer, more in itertools.pairwise(kept)]
    assert max(each) - min(each) <= 0.01 * max(each)  # the last one's output stays for the norm after it
    assert kept[0] > 4 * kept[-1]


def test_what_comes_back_is_activations_two_at_a_time(tiny: Tiny) -> None:
    trace = on_card(tiny("optim.method=full", "data.max_length=128", "model.num_hidden_layers=6", *OFFLOADED))
    back = [
        each
        for each in trace.allocations
        if each.op == "empty" and each.nbytes == KEPT and each.category == "activations"
    ]
    assert len(back) == 5 * 2  # of the first and the ordinary step
    most = max(sum(each.alive(event) for each in back) for event in {each.born for each in back})
    assert most <= 2


@pytest.mark.parametrize("method", ["full", "full 8bit", "svd", "8bit", "lora", "factors"])
def test_what_lasts_is_exactly_what_the_formulas_say(tiny: Tiny, tables: None, method: str) -> None:
    """After the last step: weights, 2 moments each, projectors, and what the libraries keep."""
    settings = METHODS.get(method, ("optim.method=full", "optim.state_dtype=8bit"))
    loaded = tiny(*settings)
    trace = on_card(loaded)
    model, _ = build_model(loaded.recipe, 256, "meta", loaded.base_dir)
    trained = [parameter.shape for parameter in model.parameters() if parameter.requires_grad]
    states = sum(state_bytes(shape, method) for shape in trained)
    projectors = sum(2 * 8 * min(shape) for shape in trained if projected(shape, method))
    assert trace.by_category(len(trace.events) - 1) == {
        "weights": 2 * sum(parameter.numel() for parameter in model.parameters()) + 4 * (64 // 4 // 2) * 2,  # of RoPE
        "optimizer_states": states,
        "workspaces": 2 * (2 * 4096 + 8 * 16) * 2**10,
    } | ({"projectors": projectors} if projectors else {})


def test_what_lasts_of_weights_in_8_bits_is_codes_and_scales(tiny: Tiny) -> None:
    loaded = tiny(*METHODS["int8"])
    trace = on_card(loaded)
    model, _ = build_model(loaded.recipe, 256, "meta", loaded.base_dir)
    trained = [parameter.shape for parameter in model.parameters()]
    kept, rotary = [shape for shape in trained if tuple(shape) in MATRICES], 4 * (64 // 4 // 2) * 2
    others = sum(shape.numel() for shape in trained if tuple(shape) not in MATRICES)
    found = trace.by_category(len(trace.events) - 1)
    assert len(kept) == 7 * LAYERS
    assert found["weights"] == sum(int8_bytes(*shape) for shape in kept) + 2 * others + rotary
    assert found["projectors"] == sum(2 * 8 * min(shape) for shape in kept)
    assert found["optimizer_states"] == sum(state_bytes(shape, "svd") for shape in trained)


def projected(shape: torch.Size, method: str) -> bool:
    return tuple(shape) in MATRICES and method in ("svd", "8bit")


def state_bytes(shape: torch.Size, method: str) -> int:
    """Two moments of the parameter, or of its projection (8, long side), in fp32 or in bytes with a scale per 256."""
    count = 8 * max(shape) if projected(shape, method) else shape.numel()
    in_bytes = "8bit" in method and count >= 4096
    return 2 * (count + 4 * -(-count // 256) if in_bytes else 4 * count)


def test_the_device_of_the_recipe_and_of_this_machine_play_no_part(tiny: Tiny) -> None:
    """Traced again, the same; nothing of a prediction is left over."""
    first, second = (on_card(tiny(f"train.device={device}")) for device in ("cpu", "cuda"))
    assert first.events == second.events
    assert first.allocations == second.allocations
    assert first.marks == second.marks


@pytest.mark.parametrize("method", ["svd", "full"])
def test_brief_has_the_same_peak(tiny: Tiny, method: str) -> None:
    loaded = tiny(f"optim.method={method}") if method == "full" else tiny("optim.proj_type=svd")
    brief, whole = (predict(loaded, card("rtx4090"), brief=each) for each in (True, False))
    assert max(brief.requested(high=True)) == max(whole.requested(high=True))
    assert (len(brief.events) < len(whole.events)) == (method == "svd")


@pytest.mark.parametrize("rope", ["dynamic, factor: 4", "longrope, factor: 4, long_factor: [1, 1, 2, 2, 3, 3, 4, 4]"])
def test_scaled_positions_take_what_plain_ones_take(tiny: Tiny, rope: str) -> None:
    plain, scaled = (predict(tiny(*more), None, brief=True) for more in ((), (f"model.rope={{type: {rope}}}",)))
    assert abs(max(scaled.requested()) - max(plain.requested())) < 2**11


@pytest.mark.parametrize(("name", "alike"), [("t4", True), ("rtx3090", False)])
def test_a_card_too_old_for_the_kernels_is_traced_by_torch(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, name: str, alike: bool
) -> None:
    loaded = tiny("model.dtype=bfloat16", "optim.projector_dtype=int8")
    by_itself = predict(loaded, card(name), brief=True)
    monkeypatch.setenv(ENVIRONMENT, "torch")
    by_torch = predict(loaded, card(name), brief=True)
    assert (by_itself.requested(high=True) == by_torch.requested(high=True)) == alike
