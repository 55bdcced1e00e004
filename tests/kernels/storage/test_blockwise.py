"""8-bit storage keeps what bitsandbytes' own format keeps, and takes the nearest of its values."""

import hashlib

import pytest
import torch

from galore.kernels.device import meta_stands_for
from galore.kernels.storage import blockwise
from galore.kernels.storage.blockwise import BLOCK_SIZE, code, dequantize, quantize_

ONE = 0x3F800000  # the bits of 1.0


@pytest.fixture
def oracle():
    return pytest.importorskip("bitsandbytes.functional", reason="the 8bit extra is not installed")


@pytest.fixture
def without_bitsandbytes(monkeypatch):
    monkeypatch.setattr(blockwise, "bitsandbytes", lambda: (None, "blocked"))


@pytest.fixture(params=[1, 2], autouse=True)
def threads(request):
    """Both look-ups: that of one thread and that of several."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def quantized(value, signed):
    """(codes, absmax) in storage that held something else."""
    codes = torch.full(value.shape, 99, dtype=torch.uint8)
    absmax = torch.full((-(-value.numel() // BLOCK_SIZE),), -1.0)
    quantize_(codes, absmax, value.clone(), signed)
    return codes, absmax


def sought(value, signed):
    """(codes, absmax) by binary search among the midpoints of the map."""
    padded = torch.nn.functional.pad(value, (0, -value.numel() % BLOCK_SIZE)).view(-1, BLOCK_SIZE)
    absmax = padded.abs().amax(1)
    values = code(signed, torch.device("cpu"))
    scaled = padded / absmax.clamp_min(torch.finfo(torch.float32).tiny)[:, None]
    codes = torch.bucketize(scaled, (values[1:] + values[:-1]) / 2)
    return codes.view(-1)[: value.numel()].to(torch.uint8), absmax


def assert_nearest(value, signed):
    codes, absmax = quantized(value, signed)
    expected, largest = sought(value, signed)
    assert torch.equal(absmax.view(torch.int32), largest.view(torch.int32))
    wrong = codes != expected
    assert not wrong.any(), (value[wrong][:5], codes[wrong][:5], expected[wrong][:5])


def beside_one(value):
    """`value` in blocks that each start with 1, so that absmax is 1."""
    rows = torch.nn.functional.pad(value, (0, -value.numel() % (BLOCK_SIZE - 1))).view(-1, BLOCK_SIZE - 1)
    return torch.nn.functional.pad(rows, (1, 0), value=1.0).view(-1)


@pytest.mark.parametrize(("signed", "digest"), [(True, "e732639a65f4"), (False, "305f002cc112")])
def test_the_map_is_a_constant(signed, digest):
    values = code.__wrapped__(signed, torch.device("cpu"))
    assert hashlib.sha256(values.numpy().astype("<f4").tobytes()).hexdigest().startswith(digest)


@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() == "DEFAULT", reason="torch.linspace rounds twice here")
@pytest.mark.parametrize("signed", [True, False])
def test_the_map_is_that_of_bitsandbytes(signed, oracle):
    theirs = oracle.create_dynamic_map(signed=signed)
    assert torch.equal(code(signed, torch.device("cpu")).view(torch.int32), theirs.view(torch.int32))


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("length", [0, 1, 255, 256, 257, 1000, 1 << 16])
def test_codes_are_read_as_by_bitsandbytes(length, signed, oracle, without_bitsandbytes):
    codes = torch.arange(length).mul(7).to(torch.uint8)
    absmax = torch.logspace(-44, 38, -(-length // BLOCK_SIZE))
    theirs = oracle.dequantize_blockwise(
        codes, absmax=absmax, code=code(signed, torch.device("cpu")), blocksize=BLOCK_SIZE
    )
    assert torch.equal(dequantize(codes, absmax, signed).view(torch.int32), theirs.view(torch.int32))


@pytest.mark.parametrize("signed", [True, False])
def test_no_code_of_bitsandbytes_is_nearer(signed, oracle):
    """Its CPU kernel looks the codes up in coarse steps, and misses the nearest of some."""
    torch.manual_seed(0)
    value = torch.randn(1 << 14) * torch.logspace(-4, 0, 1 << 14)
    value = value if signed else value.square()
    (codes, absmax), values = quantized(value, signed), code(signed, torch.device("cpu"))
    theirs, state = oracle.quantize_blockwise(value, code=values, blocksize=BLOCK_SIZE)
    assert torch.equal(absmax, state.absmax)
    assert (codes != theirs).float().mean() < 0.05
    scaled = value.double() / absmax.repeat_interleave(BLOCK_SIZE)
    near, beside = ((values[each.int()].double() - scaled).abs() for each in (codes, theirs))
    assert bool((near <= beside + 1e-7 * scaled.abs()).all())


def test_a_library_that_cannot_be_loaded_is_none(monkeypatch):
    def broken(name):
        raise OSError("libcudart.so.12: cannot open shared object file\nmore")

    monkeypatch.setattr(blockwise.importlib, "import_module", broken)
    library, why = blockwise.bitsandbytes.__wrapped__()
    assert library is None
    assert why == "bitsandbytes cannot be imported (libcudart.so.12: cannot open shared object file)"


@pytest.mark.parametrize("signed", [True, False])
def test_without_bitsandbytes_a_gpu_takes_the_nearest_codes_too(signed, without_bitsandbytes, monkeypatch):
    monkeypatch.setattr(blockwise, "device_type", lambda tensor: "cuda")
    value = torch.linspace(-1, 1, 1000)
    assert_nearest(value if signed else value.abs(), signed)


@pytest.mark.parametrize("length", [256, 1000, 4096 + 17])
@pytest.mark.parametrize("signed", [True, False])
def test_round_trip_is_within_the_format(length, signed):
    torch.manual_seed(0)
    value = torch.randn(length) * torch.logspace(-4, 0, length)
    value = value if signed else value.square()
    codes, absmax = quantized(value, signed)
    back = dequantize(codes, absmax, signed)
    limit = absmax.repeat_interleave(BLOCK_SIZE)[:length]
    assert bool(((back - value).abs() <= 0.05 * limit).all())
    assert ((back - value).norm() / value.norm()).item() < 0.03


def test_zero_and_a_positive_block_maximum_are_exact():
    value = torch.zeros(512)
    value[300] = 3.5
    codes, absmax = quantized(value, True)
    back = dequantize(codes, absmax, True)
    assert torch.equal(back, value)


@pytest.mark.parametrize("signed", [True, False])
def test_codes_are_nearest_around_every_value_and_midpoint_of_the_map(signed):
    values = code(signed, torch.device("cpu"))
    places = torch.cat((values, (values[1:] + values[:-1]) / 2)).view(torch.int32)
    near = (places[:, None] + torch.arange(-5, 6, dtype=torch.int32)).view(-1).view(torch.float32)
    assert_nearest(beside_one(near[near.abs() <= 1]), signed)  # nan, where the bits before those of 0 are taken, is out


@pytest.mark.parametrize("signed", [True, False])
def test_codes_are_nearest_where_the_look_up_changes(signed):
    edges = torch.arange(0, ONE, 1 << 15, dtype=torch.int32)
    bits = (edges[:, None] + torch.tensor([-1, 0, 1], dtype=torch.int32)).view(-1).clamp(0, ONE)
    value = torch.cat((bits, bits | -(1 << 31))).view(torch.float32)
    assert_nearest(beside_one(value), signed)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("scale", [1e-44, 1e-38, 1e-20, 1.0, 1e30])
@pytest.mark.parametrize("length", [1, 255, 257, 5000, 1 << 16])
def test_codes_are_nearest_for_heavy_tails(length, scale, signed):
    generator = torch.Generator().manual_seed(length)
    decades = -45 * torch.rand(length, generator=generator) ** 3
    value = torch.randn(length, generator=generator) * 10**decades * scale
    assert_nearest(value if signed else value.abs(), signed)


@pytest.mark.parametrize("signed", [True, False])
def test_ties_go_to_the_lower_value_and_zeros_of_both_signs_to_zero(signed):
    values = code(signed, torch.device("cpu"))
    where = int((values == 0).nonzero())
    tie = (values[where + 1] + values[where]) / 2
    codes, _ = quantized(torch.tensor([1.0, 0.0, -0.0, tie]), signed)
    assert codes.tolist() == [255, where, where, where]
    assert quantized(torch.tensor([0.0, -0.0]), signed)[0].tolist() == [where, where]


@pytest.mark.parametrize("signed", [True, False])
def test_a_processor_may_round_subnormal_numbers_to_zero(signed):
    subnormal = torch.tensor([0, 1, 0x8000, 0x8001, 0x7FFFFF], dtype=torch.int32)
    zero = int((code(signed, torch.device("cpu")) == 0).nonzero())
    for rounded, sign in ((0, 0), (1 << 15, -(1 << 31))):
        sums = blockwise._summands(signed)[rounded] + (subnormal | sign)
        assert (sums.abs() >> 23).tolist() == [zero] * 5


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("what", [float("inf"), float("nan"), float("-inf"), float("-nan")])
def test_a_block_that_is_not_finite_reads_back_as_such_and_spoils_no_other(what, signed):
    value = torch.linspace(0, 1, 3 * BLOCK_SIZE)
    value[BLOCK_SIZE + 7] = what
    back = dequantize(*quantized(value, signed), signed).view(3, BLOCK_SIZE)
    assert torch.isfinite(back).all(1).tolist() == [True, False, True]
    assert not torch.isfinite(back[1]).any()


def test_only_what_is_given_is_written():
    codes, absmax = torch.full((1024,), 7, dtype=torch.uint8), torch.full((4,), 7.0)
    quantize_(codes[256:600], absmax[1:3], torch.ones(344), True)
    assert codes[256:600].unique().tolist() == [255]
    assert codes[:256].unique().tolist() == codes[600:].unique().tolist() == [7]
    assert absmax.tolist() == [7, 1, 1, 7]


@pytest.mark.parametrize("kind", ["cpu", "cuda", "meta"])
@pytest.mark.parametrize("library", [True, False])
def test_tensors_without_memory_pass(kind, library, request):
    request.getfixturevalue("oracle" if library else "without_bitsandbytes")
    codes, absmax = torch.empty(600, dtype=torch.uint8, device="meta"), torch.empty(3, device="meta")
    with meta_stands_for(kind):
        quantize_(codes, absmax, torch.empty(600, device="meta"), True)
        assert dequantize(codes, absmax, True).shape == (600,)
