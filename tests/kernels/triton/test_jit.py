"""Device code: every kernel of every file is part of a plan that is compiled by the gate, and runs as it is planned there."""

import ast
from pathlib import Path

import pytest
import torch
from kernel_machines import Interpreter
from triton.runtime.jit import JITFunction

from galore.kernels.predict import catalogue
from galore.kernels.triton.jit import adam, codes, eight, fused, lift, memory, product, quantize, rounding, sixteen

FILES = (adam, codes, eight, fused, lift, memory, product, quantize, rounding, sixteen)
SMALL = {"EVEN": (64, 256, 32), "RAGGED": (50, 90, 20)}


def functions(file):
    """Device functions that a file defines, by name."""
    found = {name: each for name, each in vars(file).items() if isinstance(each, JITFunction)}
    return {name: each for name, each in found.items() if each.fn.__module__ == file.__name__}


def called(function):
    """Names that a device function mentions."""
    return {node.id for node in ast.walk(ast.parse(function.src)) if isinstance(node, ast.Name)}


def test_every_file_is_here_and_holds_device_code():
    there = {path.stem for path in Path(adam.__file__).parent.glob("*.py")} - {"__init__"}
    assert there == {file.__name__.rpartition(".")[2] for file in FILES}
    assert all(functions(file) for file in FILES)


def test_every_kernel_is_planned_and_every_function_is_part_of_a_kernel():
    everything = {name: each for file in FILES for name, each in functions(file).items()}
    kernels = {launch.name for _, plan in catalogue.cases() for launch in plan}
    assert kernels == {name for name in everything if name.endswith("_kernel")}
    reached, ahead = set(), kernels
    while ahead:
        reached |= ahead
        ahead = {name for each in ahead for name in called(everything[each]) & everything.keys()} - reached
    assert reached == everything.keys()


def test_plans_give_kernels_what_they_ask_for_and_nothing_else():
    """An interpreter or a compiler may not mind; a launch does."""
    for name, plan in catalogue.cases():
        for launch in plan:
            assert {*launch.arguments, *launch.constants} == set(launch.kernel.arg_names), name
            assert not launch.arguments.keys() & launch.constants.keys()


@pytest.fixture(scope="module")
def machine():
    return Interpreter()


def plans(of, monkeypatch):
    for name, shape in SMALL.items():
        monkeypatch.setattr(of, name, shape)
    return dict(of.cases())


@pytest.mark.parametrize("name", [name for name, _ in catalogue.cases()])
def test_every_case_of_the_gate_runs_and_writes_what_it_should(machine, monkeypatch, name):
    """On small shapes and memory of its own: results are finite, and there are some."""
    torch.manual_seed(0)
    k = machine.kernels
    plan = k.measure.realized(plans(k.catalogue, monkeypatch)[name], torch.device("cpu"))
    written = [
        plan[-1].arguments[key] for key in ("OUT_S", "OUT", "CODES", "DX", "DG", "W", "Z") if key in plan[-1].arguments
    ][:1]
    assert written, "nothing is told to be written"
    before = written[0].clone()
    with machine.ready():
        machine.run(plan)
    after = written[0]
    assert bool(after.float().isfinite().all())
    assert not torch.equal(after, before)
