"""What GPUs do at best, by published figures: products, memory, bus, power."""

from __future__ import annotations

from typing import NamedTuple

_T, _G, _M = 1e12, 1e9, 1 << 20


class Gpu(NamedTuple):
    """Published figures of a card, per second, the whole card.

    Attributes:
        tensor: dense products of bfloat16 on tensor cores, sums in fp32; sparsity is never counted.
        shader: float32 outside the tensor cores, FLOP/s.
        watts: power limit of the whole board. Of two sizes or settings under one name it is the higher; boards of other
            makers take up to 10 % more.
        bandwidth: of its memory, bytes. `cache`: bytes of its L2. `bus`: PCI Express, bytes each way, nominal.
        int8, fp8: dense products of 8 bits, sums in int32 and fp32, as multiples of `tensor`; 0 where there are none.
    """

    tensor: float
    shader: float
    watts: int
    bandwidth: float
    cache: float
    bus: float
    int8: float = 2.0
    fp8: float = 2.0


# Names as the driver gives them, without "NVIDIA" and "GeForce"; a laptop or cut-down variant has another name and
# other clocks, so it is not here.
# Sources: NVIDIA's product datasheets and pages (data center; power, memory, bus) and architecture white papers
# (GeForce: peaks, L2). GeForce multiplies bf16, and e4m3, with fp32 sums at half their rate, int8 at its whole.
GPUS: dict[str, Gpu] = {
    # Blackwell GeForce: RTX Blackwell GPU architecture white paper, "peak FP16/BF16 tensor with FP32 accumulate"
    "RTX 5090": Gpu(209.5 * _T, 104.8 * _T, 575, 1792 * _G, 96 * _M, 64 * _G, 4, 2),
    "RTX 5080": Gpu(112.6 * _T, 56.3 * _T, 360, 960 * _G, 64 * _M, 64 * _G, 4, 2),
    "RTX 5070 Ti": Gpu(87.9 * _T, 43.9 * _T, 300, 896 * _G, 48 * _M, 64 * _G, 4, 2),
    "RTX 5070": Gpu(61.7 * _T, 30.9 * _T, 250, 672 * _G, 48 * _M, 64 * _G, 4, 2),
    "RTX 5060 Ti": Gpu(47.4 * _T, 23.7 * _T, 180, 448 * _G, 32 * _M, 32 * _G, 4, 2),
    # Ada GeForce: Ada GPU architecture white paper; 512 tensor and 256 float32 FLOP per SM and clock
    "RTX 4090": Gpu(165.2 * _T, 82.6 * _T, 450, 1008 * _G, 72 * _M, 32 * _G, 4, 2),
    "RTX 4080 SUPER": Gpu(104.4 * _T, 52.2 * _T, 320, 736.3 * _G, 64 * _M, 32 * _G, 4, 2),
    "RTX 4080": Gpu(97.5 * _T, 48.7 * _T, 320, 716.8 * _G, 64 * _M, 32 * _G, 4, 2),
    "RTX 4070 Ti SUPER": Gpu(88.2 * _T, 44.1 * _T, 285, 672.3 * _G, 48 * _M, 32 * _G, 4, 2),
    "RTX 4070 Ti": Gpu(80.2 * _T, 40.1 * _T, 285, 504.2 * _G, 48 * _M, 32 * _G, 4, 2),
    "RTX 4070": Gpu(58.3 * _T, 29.1 * _T, 200, 504.2 * _G, 36 * _M, 32 * _G, 4, 2),
    "RTX 4060 Ti": Gpu(44.1 * _T, 22.1 * _T, 165, 288 * _G, 32 * _M, 16 * _G, 4, 2),
    "RTX 4060": Gpu(30.2 * _T, 15.1 * _T, 115, 272 * _G, 24 * _M, 16 * _G, 4, 2),
    # Ampere GeForce: GA102 white paper; the same rates. The RTX 3080 is left out: two cards of that name differ
    "RTX 3090 Ti": Gpu(80 * _T, 40 * _T, 450, 1008 * _G, 6 * _M, 32 * _G, 4, 0),
    "RTX 3090": Gpu(71 * _T, 35.6 * _T, 350, 936.2 * _G, 6 * _M, 32 * _G, 4, 0),
    "RTX 3070": Gpu(40.6 * _T, 20.3 * _T, 220, 448 * _G, 4 * _M, 32 * _G, 4, 0),
    "RTX 3060": Gpu(25.5 * _T, 12.7 * _T, 170, 360 * _G, 3 * _M, 32 * _G, 4, 0),
    # Data center: datasheets; those that print the sparse figure are halved
    "A100-SXM4-40GB": Gpu(312 * _T, 19.5 * _T, 400, 1555 * _G, 40 * _M, 32 * _G, 2, 0),
    "A100-SXM4-80GB": Gpu(312 * _T, 19.5 * _T, 400, 2039 * _G, 40 * _M, 32 * _G, 2, 0),
    "A100-PCIE-40GB": Gpu(312 * _T, 19.5 * _T, 250, 1555 * _G, 40 * _M, 32 * _G, 2, 0),
    "A100 80GB PCIe": Gpu(312 * _T, 19.5 * _T, 300, 1935 * _G, 40 * _M, 32 * _G, 2, 0),
    "A30": Gpu(165 * _T, 10.3 * _T, 165, 933 * _G, 24 * _M, 32 * _G, 2, 0),
    "L4": Gpu(121 * _T, 30.3 * _T, 72, 300 * _G, 48 * _M, 32 * _G),
    "L40S": Gpu(362 * _T, 91.6 * _T, 350, 864 * _G, 96 * _M, 32 * _G),
    "H100 80GB HBM3": Gpu(989.4 * _T, 66.9 * _T, 700, 3350 * _G, 50 * _M, 64 * _G),
    "H100 NVL": Gpu(835.5 * _T, 60 * _T, 400, 3938 * _G, 50 * _M, 64 * _G),
    "H100 PCIe": Gpu(756 * _T, 51.2 * _T, 350, 2000 * _G, 50 * _M, 64 * _G),
    "H200": Gpu(989.4 * _T, 66.9 * _T, 700, 4800 * _G, 50 * _M, 64 * _G),
}


def gpu_called(name: str) -> Gpu | None:
    """The figures of the GPU that the driver calls `name`; None where they are not known."""
    return GPUS.get(name.removeprefix("NVIDIA ").removeprefix("GeForce "))
