"""One colour per category of memory, the same in every plot, picture and page; readable on white and on black."""

from __future__ import annotations

COLORS = {
    "weights": "#2563a8",
    "gradients": "#8b6bb1",
    "optimizer_states": "#7fb0dc",
    "projectors": "#d9700f",
    "accumulators": "#f0b070",
    "activations": "#2f8f5b",
    "recompute": "#93cda6",
    "logits_and_loss": "#c79a1e",
    "temporaries": "#b5342d",
    "workspaces": "#e695a8",
    "allocator_overhead": "#b9bfc9",
    "cuda_context": "#7d8592",
    # what a running process can say of itself
    "activations_and_temporaries": "#2f8f5b",
    "interpreter_and_libraries": "#d5d9df",
}
