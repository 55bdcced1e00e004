"""W ← decay·W + alpha·P N in place: as near to float64 as torch; rounding unbiased, and the same whatever the tiles."""

import struct

import pytest
import torch
from kernel_machines import Emulator, assert_as_near, basis, kept_matrix, relative_error

from galore.kernels.ops import int8
from galore.kernels.ops.compressed import as_dense
from galore.kernels.ops.projection import lift_update_
from galore.kernels.reference import operations as reference
from galore.kernels.storage.rounding import RoundingNoise, read_compensated

SHAPES = [(64, 96, 32), (50, 90, 20)]  # m, n, r
EPS = 1e-6
KINDS = ["float32", "float16", "nearest", "stochastic", "compensated16", "compensated8"]
CPU = torch.device("cpu")


def make(machine, w, p, n, tile, **options):
    machine.run(machine.kernels.lift.lift_plan(w, p, n, machine.kernels.tile.Tile(*tile), **options))


def sides(m, n, r, transposed, dtype):
    a, b = (n, m) if transposed else (m, n)
    return basis(a, r, dtype).contiguous(), torch.randn(r, b).to(dtype)


def exact_sum(w, p, n, transposed, alpha, decay, after):
    lifted = as_dense(p, n.dtype).double() @ n.double()
    update = alpha * (lifted.mT if transposed else lifted)
    return (w.double() + update) * decay if after else w.double() * decay + update


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_as_near_to_float64_as_torch(machine, shape, transposed, kind):
    (m, n, r), alpha, decay, after = shape, -3e-4, 1 - 1e-3, transposed
    dtype = {"float32": torch.float32, "float16": torch.float16}.get(kind, torch.bfloat16)
    w, (p, direction) = (torch.randn(m, n) * 0.02).to(dtype), sides(m, n, r, transposed, dtype)
    rest = {"compensated16": torch.int16, "compensated8": torch.int8}.get(kind)
    noise = RoundingNoise(1, 2, CPU) if kind in ("stochastic", "compensated8") else None
    c = None if rest is None else torch.randint(-100, 100, (m, n), dtype=rest)
    before = w.double() if c is None else read_compensated(w, c).double()
    exact = exact_sum(before, p, direction, transposed, alpha, decay, after)
    by_torch, by_torch_c = w.clone(), None if c is None else c.clone()
    common = {"alpha": alpha, "decay": decay, "decay_after": after, "noise": noise, "transposed": transposed}
    lift_update_(by_torch, p, direction, **common, compensation=by_torch_c)
    make(machine, w, p, direction, (32, 64, 32, 4, 3), **common, compensation=c)
    ours, theirs = (w, by_torch) if c is None else (read_compensated(w, c), read_compensated(by_torch, by_torch_c))
    assert_as_near(ours, theirs, exact, slack=1.05, eps=EPS)


@pytest.mark.parametrize(("dtype", "limit"), [(torch.bfloat16, 2e-3), (torch.float16, 3e-4)])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("transposed", [False, True])
def test_codes_of_p_multiply_as_they_read(machine, transposed, bits, dtype, limit):
    m, n, r = 50, 90, 20
    p, direction = sides(m, n, r, transposed, dtype)
    p, w = kept_matrix(p, bits), torch.randn(m, n).to(dtype)
    exact = exact_sum(w, p, direction, transposed, -0.1, 1.0, False)
    make(machine, w, p, direction, (32, 64, 32, 4, 3), alpha=-0.1, transposed=transposed)
    assert torch.equal(w, exact.to(dtype)) or relative_error(w, exact) <= limit


def test_what_is_more_than_fp16_holds_is_infinite_as_it_is_with_torch(machine):
    p, direction = basis(64, 16, torch.float32) * 60_000, torch.full((16, 96), 2e4).half()
    p, w = kept_matrix(p, 8), torch.zeros(64, 96).half()
    by_torch = w.clone()
    lift_update_(by_torch, p, direction, alpha=1.0)
    make(machine, w, p, direction, (32, 64, 32, 4, 3), alpha=1.0)
    assert bool(w.isinf().any())
    assert torch.equal(w.isinf(), by_torch.isinf())


@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("columns", [128, 172])  # groups of 128, and of 86
@pytest.mark.parametrize("transposed", [False, True])
def test_int8_weights_as_torch_rounds_them(machine, transposed, columns, stochastic):
    m, r, alpha, decay = 40, 16, -2e-3, 1 - 1e-3
    codes, scales = int8.quantize(torch.randn(m, columns) * 0.05)
    codes[::3] //= 4  # groups that have shrunk since, whose scale is to change
    p, direction = sides(m, columns, r, transposed, torch.bfloat16)
    noise = RoundingNoise(1, 2, CPU) if stochastic else None
    exact = exact_sum(int8.dequantize(codes, scales, torch.float64), p, direction, transposed, alpha, decay, False)
    low, high = noise.words(7) if noise else (0, 0)
    bits = reference.random_bits(torch.arange(m * columns), low, high).view(m, columns)
    u = ((bits + 0.5) / 65536).double() if stochastic else 0.5
    size = int8.group_size(columns)
    grouped = [
        x.double().reshape(-1, size) for x in (codes, exact - int8.dequantize(codes, scales, torch.float64) * decay)
    ]
    u = u.view(-1, size) if stochastic else u
    wanted, scale = reference.update_int8(grouped[0], scales.double().view(-1), grouped[1], 1.0, decay, u)
    options = {"alpha": alpha, "decay": decay, "noise": noise, "tensor": 7, "transposed": transposed}
    make(machine, codes, p, direction, (32, 128, 32, 4, 3), **options, scales=scales)
    assert torch.equal(scales.double().view(-1), scale)
    different = codes.view(-1, size).double() - wanted
    assert float((different != 0).double().mean()) < 2e-3  # only where fp32 sums fall on the other side of a code
    assert float(different.abs().max()) <= 1


def test_rounding_is_the_references_bit_for_bit(machine):
    w, (p, direction) = torch.randn(50, 90).bfloat16(), sides(50, 90, 20, False, torch.bfloat16)
    noise, value = RoundingNoise(3, 4, CPU), w.float() * 0.75
    bits = reference.random_bits(torch.arange(w.numel()).view(w.shape), *noise.words(5))
    make(machine, w, p, direction, (32, 64, 32, 4, 3), alpha=0.0, decay=0.75, noise=noise, tensor=5)
    assert torch.equal(w, reference.round_stochastically(value, bits))


def test_rounding_goes_up_as_often_as_it_should(machine):
    """In every tenth of the way from one bf16 number to the next, and in the mean."""
    up, below = torch.zeros(10), torch.zeros(10)
    p, direction = torch.zeros(128, 16).bfloat16(), torch.zeros(16, 256).bfloat16()
    for step in range(2):
        w = torch.rand(128, 256).add_(1).bfloat16()  # one place of bf16 is 2⁻⁷ of all of them
        value, noise = w.float() * 0.71234, RoundingNoise(0, step, CPU)
        lower = (value.view(torch.int32) & -(1 << 16)).view(torch.float32)
        way = (value.view(torch.int32) & 0xFFFF).float() / 65536
        make(machine, w, p, direction, (64, 128, 16, 4, 3), alpha=0.0, decay=0.71234, noise=noise)
        bins = (way * 10).long().clamp_max(9).view(-1)
        up += torch.zeros(10).index_add_(0, bins, (w.float() > lower).float().view(-1) - way.view(-1))
        below += torch.bincount(bins, minlength=10)
    assert below.min() > 4000
    assert (up / below).abs().max() < 4 * 0.5 / below.min().sqrt()  # four standard errors
    assert abs(float(up.sum() / below.sum())) < 4 * 0.5 / float(below.sum()) ** 0.5


NVIDIAS_NAN = struct.unpack("d", struct.pack("q", 0x7FFFFFFFE0000000))[0]  # in fp32 0x7FFFFFFF


@pytest.mark.parametrize("kind", KINDS[2:])
def test_an_update_of_nan_is_one_in_the_weight(machine, kind):
    """The bits of a NaN are those of `alpha`, which a CPU keeps; a card makes them anew, the same."""
    w, p, direction = torch.randn(32, 64).bfloat16(), torch.ones(32, 16).bfloat16(), torch.ones(16, 64).bfloat16()
    rest = {"compensated16": torch.int16, "compensated8": torch.int8}.get(kind)
    options = {"noise": None if kind == "nearest" else RoundingNoise(1, 2, CPU)}
    options |= {} if rest is None else {"compensation": torch.zeros(w.shape, dtype=rest)}
    make(machine, w, p, direction, (32, 64, 32, 4, 3), alpha=NVIDIAS_NAN, **options)
    assert bool(w.isnan().all())


@pytest.mark.parametrize("stochastic", [False, True])
def test_an_update_of_nan_spoils_its_group_of_an_int8_weight_and_no_other(machine, stochastic):
    codes, scales = int8.quantize(torch.randn(32, 256))
    p, direction = torch.eye(32)[:, :16].contiguous(), torch.randn(16, 256)
    direction[3, 5] = torch.nan
    p[16:] = 0.0
    noise = RoundingNoise(1, 2, CPU) if stochastic else None
    by_torch = codes.clone(), scales.clone()
    lift_update_(by_torch[0], p, direction, alpha=-1e-3, scales=by_torch[1], noise=noise)
    make(machine, codes, p, direction, (32, 128, 32, 4, 3), alpha=-1e-3, scales=scales, noise=noise)
    assert torch.equal(scales.isnan(), by_torch[1].isnan())
    assert bool(scales.isnan().any())
    assert not bool(scales.isnan().all())


@pytest.mark.parametrize("kind", ["stochastic", "compensated8", "int8"])
def test_tiles_do_not_show_in_the_result(kind):
    """Compiled code sums 16 summands at a time whatever the tile, and rounds by the element: equal to the bit."""
    machine, results = Emulator(), []
    torch.manual_seed(0)
    (p, direction), start = sides(60, 128, 32, False, torch.bfloat16), torch.randn(60, 128)
    for tile in ((16, 128, 16, 4, 2), (32, 64, 32, 4, 3), (64, 32, 32, 2, 4)):
        options = {"alpha": -1e-2, "decay": 0.999, "noise": RoundingNoise(1, 1, CPU)}
        if kind == "int8":
            w, options["scales"] = int8.quantize(start)
        else:
            w = start.bfloat16()
        if kind == "compensated8":
            options["compensation"] = torch.zeros(w.shape, dtype=torch.int8)
        make(machine, w, p, direction, tile, **options)
        results.append((w, options.get("scales", w), options.get("compensation", w)))
    for other in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(results[0], other, strict=True))


def test_seeds_steps_and_tensors_have_bits_of_their_own():
    drawn = [
        reference.random_bits(torch.arange(4096), *RoundingNoise(seed, step, CPU).words(tensor)).double()
        for seed, step, tensor in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))
    ]
    correlation = torch.corrcoef(torch.stack(drawn)) - torch.eye(4)
    assert correlation.abs().max() < 4 / 64
    assert all(abs(float(each.mean()) - 32767.5) < 4 * 18919 / 64 for each in drawn)
