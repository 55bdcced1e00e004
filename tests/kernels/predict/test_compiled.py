"""The gate: every kernel compiled for sm_89 and other cards, without a GPU, takes no more of them than is recorded."""

import json
from pathlib import Path

import pytest

triton = pytest.importorskip("triton", reason="the kernels need the optional package triton")

from galore.kernels.predict.catalogue import NEEDS_SM89, cases, essential
from galore.kernels.predict.compiled import compile_launch

GOLDEN = json.loads((Path(__file__).parents[2] / "golden/kernels-sm89.json").read_text())
PINNED = "3.7.1"  # that the golden figures are of; others may allocate registers otherwise
SHARED = 101_376  # bytes that one block may have on sm_86, sm_89 and sm_120
PRODUCTS = ("product_kernel", "coded_product_kernel", "lift_kernel", "lift_int8_kernel")
CASES, ESSENTIAL = dict(cases()), dict(essential())


def check(used, name):
    assert used.per_thread[1:] == (0, 0), name  # neither stack nor local memory: nothing is spilled
    assert used.shared <= SHARED, name


@pytest.mark.parametrize("name", CASES)
def test_sm89(name):
    for launch in CASES[name]:
        used = compile_launch(launch)
        check(used, name)
        golden = GOLDEN[f"{name}: {launch.name}"]
        assert (used.tensor_core > 0) == (golden["tensor_core"] > 0)
        if triton.__version__ == PINNED:
            assert used.tensor_core == golden["tensor_core"]
            assert used.per_thread[0] <= golden["registers"]
            assert used.shared <= golden["shared"]


@pytest.mark.parametrize("capability", [80, 86, 90, 120])
@pytest.mark.parametrize("name", ESSENTIAL)
def test_other_cards(name, capability):
    if capability < 89 and NEEDS_SM89 in name:
        pytest.skip("e4m3 is converted in hardware from sm_89 on")
    for launch in ESSENTIAL[name]:
        used = compile_launch(launch, capability)
        check(used, name)
        assert (used.tensor_core > 0) == (launch.name in PRODUCTS)


def test_nothing_recorded_is_missing():
    assert {name.split(":")[0] for name in GOLDEN} == set(CASES)


def test_what_spills_has_memory_of_its_own_for_it(monkeypatch):
    launch = CASES["project bf16 left even"][0]
    real = triton.compile
    whole = compile_launch(launch)
    monkeypatch.setattr(triton, "compile", lambda *a, options, **k: real(*a, options=options | {"maxnreg": 40}, **k))
    squeezed = compile_launch(launch)
    for each, spills in ((whole, False), (squeezed, True)):
        assert (each.resources.spills > 0) is (sum(each.per_thread[1:]) > 0) is spills
