"""The emulator is trusted because it notices broken programs: each mutation of real PTX is a fault or a wrong result."""

import re

import pytest
import torch
from kernel_machines import basis, execute, relative_error, stored
from ptx_emulator.faults import Fault

from galore.kernels.predict.compiled import compile_launch
from galore.kernels.rules.adam import AdamRule
from galore.kernels.storage.rounding import RoundingNoise
from galore.kernels.triton import adam, lift, product
from galore.kernels.triton.operand import Operand
from galore.kernels.triton.tile import Tile

CORRECT = 1e-6


def projection(even=True):
    """A compiled R = Pᵀ G with pipelined copies, its result and the exact one."""
    torch.manual_seed(0)
    a, b, r = (128, 64, 32) if even else (100, 50, 20)
    p, g, out = basis(a, r, torch.bfloat16).contiguous(), torch.randn(a, b).bfloat16(), torch.zeros(r, b)
    (launch,) = product.product_plan(out, Operand.of(p).mT, g, Tile(32, 64, 32, 4, 3))
    return compile_launch(launch), out, p.double().mT @ g.double()


def adams(kind="dynamic"):
    torch.manual_seed(0)
    m, g, out = torch.randn(8, 256) * 1e-2, torch.randn(8, 256), torch.zeros(8, 256)
    moments = stored(kind, m, m.square())
    (launch,) = adam.adam_plan(out, g, moments, AdamRule(), step=2)
    return compile_launch(launch), out, moments


def replaced(ptx, pattern, by, count=1):
    mutant, found = re.subn(pattern, by, ptx, count=count)
    assert found, f"nothing to mutate: {pattern}"
    return mutant


def test_the_program_as_it_is_computes_the_product():
    for even in (True, False):
        compiled, out, exact = projection(even)
        assert execute(compiled) > 0
        assert relative_error(out, exact) < CORRECT


FAULTS = {
    "a copy is not waited for": (r"cp\.async\.wait_group\s+\d+", "cp.async.wait_group 9", "before it is written"),
    "no barrier after the wait": (
        r"(wait_group[^\n]*\n(?:\s*\.loc[^\n]*\n|\$L[^\n]*\n)*)\s*bar\.sync\s+0;",
        r"\1",
        "another warp",
    ),
    "shared memory out of bounds": (r"(ldmatrix[^\n]*\[%r\d+)\+?(\d*)\]", r"\1+65536]", "out of bounds"),
    "a misaligned access": (r"(ldmatrix[^\n]*\[%r\d+)\+?(\d*)\]", r"\1+2]", "misaligned"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_mutations_that_are_faults(name):
    pattern, by, message = FAULTS[name]
    compiled, _, _ = projection()
    with pytest.raises(Fault, match=message):
        execute(compiled, replaced(compiled.ptx, pattern, by, count=0))


WRONG = {
    "a matrix loaded without its transposition": (
        r"ldmatrix\.sync\.aligned\.m8n8\.x4\.trans",
        "ldmatrix.sync.aligned.m8n8.x4",
    ),
    "one matrix product left out": (r"mma\.sync[^\n]*;", ";"),
    "operands of a product exchanged": (
        r"(mma\.sync\S+ \{[^}]*\}), \{ (%r\d+), (%r\d+), (%r\d+), (%r\d+) \}",
        r"\1, { \3, \2, \4, \5 }",
    ),
    "the loop ends early": (
        r"setp\.lt\.s32(\s+%p\d+), (%r\d+), (%r\d+);(?=(?:[^\n]*\n){1,3}[^\n]*bra)",
        r"setp.eq.s32\1, \2, \3;",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_mutations_that_compute_something_else(name):
    compiled, out, exact = projection()
    try:
        execute(compiled, replaced(compiled.ptx, *WRONG[name]))
    except Fault:
        return  # noticed even earlier
    assert relative_error(out, exact) > 1e3 * CORRECT


def test_a_shape_that_its_program_was_not_compiled_for():
    """Tiles without masks on a ragged matrix run over its end."""
    compiled, _, _ = projection()
    ragged, _, _ = projection(even=False)
    arguments = ragged.launch.arguments
    compiled.launch.arguments.update({name: arguments[name] for name in ("OUT", "A", "B", "M", "N", "K")})
    with pytest.raises(Fault, match="out of bounds"):
        execute(compiled)


@pytest.mark.parametrize(
    ("pattern", "by"),
    [
        (r"div\.rn\.f32", "mul.f32"),
        (r"sqrt\.rn\.f32(\s+%r\d+, )", r"neg.f32\1"),
        (r"setp\.gt\.f32", "setp.lt.f32"),
        (r"selp\.f32(\s+%r\d+), ([^,]+), ([^,]+),", r"selp.f32\1, \3, \2,"),
        (r"prmt\.b32([^;]*)0x7770U", r"prmt.b32\g<1>0x7771U"),
        (r"redux\.sync\.max", "redux.sync.min"),
        (r"max\.s32", "min.s32"),
        (r"fma\.rn\.f32(\s+%r\d+), (%r\d+), ([^,]+), (%r\d+);", r"mul.f32\1, \2, \3;"),
    ],
)
def test_mutations_of_adam(pattern, by):
    """Each changes the direction or what is stored of the moments."""
    compiled, out, moments = adams()
    execute(compiled)
    right = [x.clone() for x in (out, *moments) if x is not None]
    compiled, out, moments = adams()
    try:
        execute(compiled, replaced(compiled.ptx, pattern, by, count=0))
    except Fault:
        return
    wrong = [x for x in (out, *moments) if x is not None]
    assert not all(torch.equal(x, y) for x, y in zip(right, wrong, strict=True))


@pytest.mark.parametrize("instruction", ["xor.b32", "shr.u32", "mul.lo.s32"])
def test_mutations_of_the_random_bits(instruction):
    """Every operation of the hash counts."""
    results = []
    for mutate in (False, True):
        torch.manual_seed(0)
        w, p, n = torch.randn(32, 64).bfloat16(), basis(32, 16, torch.bfloat16), torch.randn(16, 64).bfloat16()
        noise = RoundingNoise(0, 0, torch.device("cpu"))
        (launch,) = lift.lift_plan(w, p, n, Tile(32, 64, 16, 4, 2), alpha=-1e-2, noise=noise)
        compiled = compile_launch(launch)
        lines = compiled.ptx.splitlines()
        last = max(
            place for place, line in enumerate(lines) if f"\t{instruction} " in line or f"\t{instruction}\t" in line
        )
        if mutate:
            lines[last] = lines[last].replace(instruction, "or.b32")
        try:
            execute(compiled, "\n".join(lines))
        except Fault:
            return
        results.append(w)
    assert not torch.equal(*results)


def test_an_unknown_instruction_is_a_fault_and_not_ignored():
    compiled, _, _ = projection()
    with pytest.raises(Fault, match="unknown instruction"):
        execute(compiled, compiled.ptx.replace("bar.sync", "brkpt.sync", 1))
