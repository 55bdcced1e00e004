"""Which implementation of each operation runs on a device, and why: nothing is chosen silently."""

from __future__ import annotations

from typing import NamedTuple


class Path(NamedTuple):
    """One operation, the implementation that runs, and the reason."""

    op: str
    path: str
    why: str


def explain(device: str) -> list[Path]:
    """The paths taken on `device` ("cpu" or "cuda"), in the order a training step meets them."""
    gemm = (
        "fp32 accumulation and result"
        if device == "cuda"
        else "fp32 accumulation; bf16 result, the CPU GEMM has no wider one"
    )
    codes = "nearest code by look-up: bitsandbytes' CPU kernel does not keep 0" if device == "cpu" else "its own kernel"
    return [
        Path("linear_cross_entropy", "torch, chunked", "the logits never exist whole; softmax in fp32"),
        Path("project", f"torch, {'cuBLAS' if device == 'cuda' else 'oneDNN / BLAS'}", gemm),
        Path(
            "adam",
            f"torch, fused, in blocks of {'2²²' if device == 'cuda' else '2¹⁸'} elements",
            "fp32 arithmetic on any storage; temporaries stay in cache",
        ),
        Path(
            "8-bit states",
            "bitsandbytes' format" if device == "cuda" else "bitsandbytes' format, torch quantiser",
            codes,
        ),
        Path(
            "lift_update",
            "torch, addmm_ (fp32) or row blocks (bf16)",
            "no m×n fp32 temporary; bf16 rounded stochastically",
        ),
        Path("subspace", "torch.linalg, fp32", "falls back to float64 eigh / QR, counted, where it does not converge"),
    ]
