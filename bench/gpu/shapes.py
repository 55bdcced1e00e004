"""Products with the tiles that training takes, on shapes of LLaMA-7B, beside float64: the tests' tiles are smaller ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from gpu.scale import Scale

SHAPES = [(4096, 11008, 1024)]  # a, b, r
TINY = [(64, 128, 16)]
WEIGHTS = ("float32", "bfloat16", "stochastic", "compensated", "int8")
SLACK, EPS = 1.2, 1e-5  # of torch's error; of fp32 sums in another order


class Compared(NamedTuple):
    """Relative errors in the Frobenius norm."""

    what: str
    ours: float
    torch: float

    @property
    def held(self) -> bool:
        return self.ours <= SLACK * self.torch + EPS


def compared(scale: Scale) -> Iterator[Compared]:
    """Every projection and lift, on both sides; in a rehearsal torch stands for Triton."""
    import torch

    ours = "torch" if scale.rehearsal else "triton"
    torch.manual_seed(0)
    for a, b, r in TINY if scale.rehearsal else SHAPES:
        for transposed in (False, True):
            side = f"{a}×{b} r{r} {'right' if transposed else 'left'}"
            for bits in (16, 8, 4):
                yield Compared(f"project p{bits} {side}", *_projected(a, b, r, bits, transposed, scale.device, ours))
            for weight in WEIGHTS:
                yield Compared(f"lift {weight} {side}", *_lifted(a, b, r, weight, transposed, scale.device, ours))


def _projected(a: int, b: int, r: int, bits: int, transposed: bool, device: str, ours: Any) -> Iterator[float]:
    import torch

    from galore.kernels.ops.compressed import as_dense, compress
    from galore.kernels.ops.projection import project
    from galore.kernels.storage.layout import Compressed

    g = torch.randn(*((b, a) if transposed else (a, b)), device=device, dtype=torch.bfloat16)
    g = g.mT if transposed else g
    p: Any = torch.randn(a, r, device=device, dtype=torch.bfloat16) / a**0.5
    if bits < 16:
        p = Compressed(*compress(p, bits, "torch").values(), (a, r))  # type: ignore[arg-type]
    exact = as_dense(p, g.dtype).double().mT @ g.double()
    for backend in (ours, "torch"):
        yield _error(project(p, g, backend), exact)


def _lifted(a: int, b: int, r: int, weight: str, transposed: bool, device: str, ours: Any) -> Iterator[float]:
    import torch

    from galore.kernels.ops import int8
    from galore.kernels.ops.projection import lift_update_
    from galore.kernels.storage.rounding import RoundingNoise, read_compensated

    dtype = torch.float32 if weight == "float32" else torch.bfloat16
    p, n = (torch.randn(*shape, device=device, dtype=dtype) for shape in ((a, r), (r, b)))
    p /= a**0.5
    begun = torch.randn(*((b, a) if transposed else (a, b)), device=device, dtype=dtype)
    codes, scales = int8.quantize(begun) if weight == "int8" else (begun, None)
    product = p.double() @ n.double()
    start = begun if scales is None else int8.dequantize(codes, scales, torch.float32, "torch")
    exact = 0.9 * start.double() - (product.mT if transposed else product)
    noise = RoundingNoise(0, 0, torch.device(device)) if weight in ("stochastic", "int8") else None
    for backend in (ours, "torch"):
        w, s = codes.clone(), None if scales is None else scales.clone()
        c = torch.zeros_like(w, dtype=torch.int16) if weight == "compensated" else None
        lift_update_(
            w,
            p,
            n,
            alpha=-1.0,
            decay=0.9,
            noise=noise,
            compensation=c,
            transposed=transposed,
            scales=s,
            backend=backend,
        )
        got = w if c is None else read_compensated(w.view(-1), c.view(-1)).view(w.shape)
        yield _error(got if s is None else int8.dequantize(w, s, torch.float32, "torch"), exact)


def _error(x: Any, exact: Any) -> float:
    return float((x.double() - exact).norm() / exact.norm())
