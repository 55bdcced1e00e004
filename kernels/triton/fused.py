"""Plans of the pieces of a forward between its products: RMSNorm, SwiGLU, rotary positions, and the loss."""

from __future__ import annotations

from torch import Tensor

from galore.kernels.triton.jit.fused import (
    rms_norm_backward_kernel,
    rms_norm_kernel,
    rotary_kernel,
    softmax_kernel,
    swiglu_backward_kernel,
    swiglu_kernel,
)
from galore.kernels.triton.launch import Argument, Launch, blocks

ELEMENTS = 4096  # of rows, to a program
FLAT = 1024  # elements to a program
HALVES = 2048  # pairs that turn, to a program
COLUMNS = 4096  # of logits, that a program holds at a time


def rms_norm_plan(out: Tensor, r: Tensor, x: Tensor, weight: Tensor, eps: float) -> list[Launch]:
    """out ← weight ∘ r x, r (rows,) fp32, for contiguous x (rows, columns)."""
    rows, columns = x.shape
    each, width, warps = _tile(columns)
    arguments: dict[str, Argument] = {
        "OUT": out,
        "R": r,
        "X": x,
        "W": weight,
        "rows": rows,
        "columns": columns,
        "eps": eps,
    }
    touched = x.nbytes + out.nbytes
    constants = {"ROWS": each, "WIDTH": width}
    return [Launch(rms_norm_kernel, (blocks(rows, each), 1), arguments, constants, warps, bytes=touched)]


def rms_norm_backward_plan(
    dx: Tensor, partial: Tensor, dy: Tensor, x: Tensor, weight: Tensor, r: Tensor, gain: bool
) -> list[Launch]:
    """dx (rows, columns), and with `gain` partial (programs, columns) fp32, whose sum over programs is weight's."""
    rows, columns = x.shape
    each, width, warps = _tile(columns)
    programs = len(partial)
    arguments: dict[str, Argument] = {
        "DX": dx,
        "DW": partial,
        "DY": dy,
        "X": x,
        "W": weight,
        "R": r,
        "rows": rows,
        "columns": columns,
        "each": blocks(rows, programs),
    }
    touched = x.nbytes + dy.nbytes + dx.nbytes
    constants = {"GAIN": gain, "ROWS": each, "WIDTH": width}
    return [Launch(rms_norm_backward_kernel, (programs, 1), arguments, constants, warps, bytes=touched)]


def swiglu_plan(out: Tensor, gate: Tensor, up: Tensor) -> list[Launch]:
    """out ← silu(gate) up, all contiguous."""
    arguments: dict[str, Argument] = {"OUT": out, "GATE": gate, "UP": up, "count": out.numel()}
    return [_flat(swiglu_kernel, arguments, 3 * out.nbytes, out.numel())]


def swiglu_backward_plan(d_gate: Tensor, d_up: Tensor, dy: Tensor, gate: Tensor, up: Tensor) -> list[Launch]:
    """d_gate, d_up ← the gradients of gate and up, all contiguous."""
    arguments: dict[str, Argument] = {"DG": d_gate, "DU": d_up, "DY": dy, "GATE": gate, "UP": up, "count": dy.numel()}
    return [_flat(swiglu_backward_kernel, arguments, 5 * dy.nbytes, dy.numel())]


def rotary_plan(out: Tensor, x: Tensor, cos: Tensor, sin: Tensor, backward: bool) -> list[Launch]:
    """out ← x (B, H, T, D) turned, its last dimension and cos and sin (B or 1, T, D) contiguous."""
    batch, heads, tokens, size = x.shape
    half = size // 2
    width = 1 << (half - 1).bit_length()
    each = min(1 << (heads - 1).bit_length(), max(1, HALVES // width))
    arguments: dict[str, Argument] = {
        "OUT": out,
        "X": x,
        "COS": cos,
        "SIN": sin,
        "tokens": tokens,
        "heads": heads,
        "sxb": x.stride(0),
        "sxt": x.stride(2),
        "sxh": x.stride(1),
        "sob": out.stride(0),
        "sot": out.stride(2),
        "soh": out.stride(1),
        "scb": cos.stride(0) if len(cos) > 1 else 0,
    }
    constants = {"BACKWARD": backward, "HALF": half, "HEADS": each, "WIDTH": width}
    grid = (batch * tokens, blocks(heads, each))
    return [Launch(rotary_kernel, grid, arguments, constants, bytes=x.nbytes + out.nbytes)]


def softmax_plan(logits: Tensor, targets: Tensor, losses: Tensor, lse: Tensor, z_loss: float) -> list[Launch]:
    """Contiguous logits (rows, columns) ← their gradient, losses and lse (rows,) fp32; see `softmax_kernel`."""
    rows, columns = logits.shape
    arguments: dict[str, Argument] = {
        "Z": logits,
        "T": targets,
        "LOSS": losses,
        "LSE": lse,
        "columns": columns,
        "z_loss": float(z_loss),
    }
    block = min(COLUMNS, 1 << (columns - 1).bit_length())
    return [
        Launch(softmax_kernel, (rows, 1), arguments, {"BLOCK": block}, max(4, block // 512), bytes=2 * logits.nbytes)
    ]


def _tile(columns: int) -> tuple[int, int, int]:
    """(rows of a tile, its width, warps)."""
    width = 1 << (columns - 1).bit_length()
    rows = max(1, ELEMENTS // width)
    return rows, width, min(16, max(4, rows * width // 512))


def _flat(kernel: object, arguments: dict[str, Argument], touched: int, count: int) -> Launch:
    return Launch(kernel, (blocks(count, FLAT), 1), arguments, {"BLOCK": FLAT}, warps=4, bytes=touched)
