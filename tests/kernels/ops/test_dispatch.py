"""Every operation of a step says which path it takes and why; a backend that cannot is refused, never replaced."""

import sys

import pytest
import torch

from galore.kernels.device import capability_of_meta, meta_stands_for
from galore.kernels.ops import dispatch
from galore.kernels.ops.compressed import compress
from galore.kernels.ops.direction import adam_direction_
from galore.kernels.ops.dispatch import BackendError, choose
from galore.kernels.ops.fused.rotary import rotate
from galore.kernels.ops.int8 import dequantize
from galore.kernels.ops.matmul.codes import coded_product, regrouped, row_codes
from galore.kernels.ops.matmul.formats import FORMATS
from galore.kernels.ops.paths import Problem, explain, summary
from galore.kernels.ops.projection import lift_update_, project
from galore.kernels.rules.adam import AdamRule
from galore.kernels.storage.coded import Coded
from galore.kernels.storage.layout import Compressed
from galore.kernels.storage.moments import Moments

BF16 = Problem((64, 96), 8, torch.bfloat16, "dynamic")


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_operation_is_explained(device):
    paths = explain(device)
    assert {"project", "adam", "lift_update", "linear_cross_entropy"} <= {path.op for path in paths}
    assert all(path.path and path.why for path in paths)


def test_it_is_told_how_kernels_are_launched_where_any_are(monkeypatch):
    direct = pytest.importorskip("galore.kernels.triton.direct")

    def launched(device):
        return [(path.path, path.why) for path in explain(device) if path.op == "launch"]

    assert launched("cpu") == []
    ((path, why),) = launched("cuda")
    assert (path, why) == (
        "compiled kernels are found",
        "what a kernel was compiled for is asked once, not at each launch",
    )
    monkeypatch.setattr(direct, "refusal", lambda: "for a reason")
    assert launched("cuda") == [("Triton's way", "for a reason")]


def test_a_gpu_fuses_what_spares_memory_traffic_and_leaves_plain_products_to_cublas():
    paths = {path.op: path.path for path in explain("cuda", [BF16])}
    assert paths["adam 64×96 r8"] == paths["lift_update 64×96 r8"] == "triton"
    assert "cuBLAS" in paths["project 64×96 r8"]
    coded = {path.op: path.path for path in explain("cuda", [BF16._replace(coded_projector=True)])}
    assert coded["project 64×96 r8"] == "triton"


@pytest.mark.parametrize(("card", "e4m3", "lacks"), [
    (None, True, ""), ((8, 9), True, ""), ((8, 6), True, "8.6 lacks e4m3"), ((8, 6), False, ""), ((7, 5), False, "7.5 lacks bf16"),
])  # fmt: skip
def test_a_simulated_card_is_asked_for_what_it_has(card, e4m3, lacks):
    with meta_stands_for("cuda"), capability_of_meta(card):
        assert lacks in (found := dispatch.unavailable(torch.device("meta"), e4m3=e4m3))
        assert bool(found) == bool(lacks)


def test_what_the_kernels_have_no_form_for_stays_with_torch_and_says_so():
    reasons = {
        BF16._replace(dense=True): "nothing else",
        BF16._replace(weight=torch.int8, group=200): "200 int8 codes",
        BF16._replace(weight=torch.float32): "one product in place",
        BF16._replace(shape=(1 << 16, 1 << 15)): "32-bit offsets",
    }
    for problem, reason in reasons.items():
        (lift,) = (path for path in explain("cuda", [problem]) if path.op.startswith("lift"))
        assert lift.path.startswith("torch")
        assert reason in lift.why


def test_the_environment_takes_the_place_of_auto(monkeypatch):
    monkeypatch.setenv(dispatch.ENVIRONMENT, "torch")
    assert {path.path for path in explain("cuda", [BF16]) if path.op.startswith(("adam", "lift"))} <= {
        "torch, fused, in blocks of 2²² elements",
        "torch, row blocks",
    }
    monkeypatch.setenv(dispatch.ENVIRONMENT, "cuda")
    with pytest.raises(BackendError, match="there are auto, torch, triton"):
        choose(dispatch.quantizer(torch.empty(1)))


def test_triton_by_name_on_a_cpu_is_refused_by_every_operation():
    w, p, n = torch.zeros(8, 16), torch.zeros(8, 4), torch.zeros(4, 16)
    calls = [
        lambda: project(p, w, backend="triton"),
        lambda: lift_update_(w, p, n, alpha=1.0, transposed=False, backend="triton"),
        lambda: compress(p, 8, backend="triton"),
        lambda: adam_direction_(n, n, Moments(n.clone(), n.clone()), AdamRule(), step=1, backend="triton"),
    ]
    for call in calls:
        with pytest.raises(BackendError, match="for CUDA, not cpu"):
            call()


def test_a_run_is_told_in_few_lines():
    shapes = [BF16, BF16, BF16._replace(shape=(96, 96))]
    lines = summary("cuda", shapes)
    assert len(lines) == 3
    assert any(line.startswith("lift_update of 64×96 r8, 96×96 r8: triton (") for line in lines)
    (line,) = summary("cpu", shapes)
    assert line.startswith("project, adam, lift_update of 64×96 r8, 96×96 r8: torch (Triton")


def test_what_a_run_asks_of_a_device_is_refused_whatever_its_method(monkeypatch):
    monkeypatch.setenv(dispatch.ENVIRONMENT, "triton")
    assert summary("cuda", []) == []
    with pytest.raises(BackendError, match="Triton's kernels are for CUDA, not cpu"):
        summary("cpu", [])


def test_on_meta_the_fused_path_allocates_nothing_of_the_weights_size():
    """What profile-memory traces for a GPU: neither an fp32 copy of a block of W nor P in floating point."""
    w, p, n = (torch.empty(*shape, dtype=torch.bfloat16, device="meta") for shape in ((256, 512), (256, 16), (16, 512)))
    allocated = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            allocated.append(func)
            return out

    with meta_stands_for("cuda"), Watch():
        lift_update_(w, p, n, alpha=1.0, transposed=False)
    assert not allocated
    with meta_stands_for("cuda"), Watch():
        lift_update_(w, p, n, alpha=1.0, transposed=False, backend="torch")
    assert allocated


def test_a_gpu_is_simulated_where_triton_is_not_installed(monkeypatch):
    """profile-memory on any computer: the fused paths are traced, and no kernel is imported for it."""
    for name in [name for name in sys.modules if name.split(".")[0] == "triton" or "kernels.triton" in name]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "triton", None)

    def meta(*shape, dtype=torch.bfloat16):
        return torch.empty(*shape, dtype=dtype, device="meta")

    w, n = meta(256, 512), meta(16, 512)
    moments = Moments(meta(16, 512, dtype=torch.float32), meta(16, 512, dtype=torch.float32))
    with meta_stands_for("cuda"):
        kept = compress(meta(256, 16), 4)
        p = Compressed(kept["codes"], kept["absmax"], (256, 16))
        assert project(p, w).shape == n.shape
        lift_update_(w, p, n, alpha=1.0, transposed=False)
        adam_direction_(n, n, moments, AdamRule(), step=1)
        assert dequantize(meta(256, 512, dtype=torch.int8), meta(256, 4), torch.bfloat16).dtype == torch.bfloat16


def apart(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    """A view on `meta` whose last dimension is contiguous, 2³¹ elements from its first element to its last."""
    between = -(-(1 << 31) // (shape[-2] - 1))
    strides = [0] * (len(shape) - 2) + [between, 1]
    return torch.empty(1, dtype=dtype, device="meta").expand(*shape).as_strided(shape, strides)


def codes(x: torch.Tensor) -> Coded:
    return Coded(x, torch.empty(x.shape[0], 1, device="meta"), x.shape[1])


INT8 = FORMATS["int8"]
SMALL = torch.empty(64, 32, dtype=torch.int8, device="meta")
LONG = (1 << 27) + 1  # rows of one number, 16 bytes of codes each
REACHING = {
    "A of a product": lambda: coded_product(codes(apart(64, 32, dtype=torch.int8)), codes(SMALL), INT8, torch.bfloat16),
    "B of a product": lambda: coded_product(codes(SMALL), codes(apart(64, 32, dtype=torch.int8)), INT8, torch.bfloat16),
    "a view to codes": lambda: row_codes(apart(64, 32), INT8),
    "rows that are filled up": lambda: row_codes(torch.empty(LONG, 1, device="meta"), INT8),
    "codes made anew": lambda: regrouped(codes(apart(64, 32, dtype=torch.int8)), False),
    "a view that turns": lambda: rotate(
        apart(1, 1, 64, 32), apart(1, 1, 64, 32), *torch.empty(2, 1, 64, 32, device="meta")
    ),
    "a view to project": lambda: project(compressed(64, 8), apart(64, 96)),
}


def compressed(a: int, r: int) -> Compressed:
    kept = compress(torch.empty(a, r, dtype=torch.bfloat16, device="meta"), 8, backend="torch")
    return Compressed(kept["codes"], kept["absmax"], (a, r))


@pytest.mark.parametrize("name", REACHING)
def test_offsets_of_every_operand_are_asked_for(name):
    """Few elements may lie far apart, and a result may be small where what it is made of is not."""
    noticed = []
    with meta_stands_for("cuda", lambda op, *_: noticed.append(op)), capability_of_meta((9, 0)):
        REACHING[name]()
    assert set(noticed) <= {"expand"}  # of P, which is small


@pytest.mark.parametrize(("x", "expected"), [
    (torch.empty(3, 5), 15), (torch.empty(3, 5).mT, 15), (torch.empty(3, 8)[:, 2:4], 18), (torch.empty(1).expand(9, 9), 1),
    (torch.empty(0, 5), 0), (torch.empty(()), 1),
])  # fmt: skip
def test_the_reach_of_a_view_is_that_of_its_strides(x, expected):
    assert dispatch.reach(x) == expected
