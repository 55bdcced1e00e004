"""What the memory of a training step is made of: the same names in predictions, live metrics and reports."""

from __future__ import annotations

# what outlives a forward and backward pass, in the order of a stack, the lowest first
LASTING = ("weights", "gradients", "optimizer_states", "projectors", "accumulators")
PASSING = ("activations", "recompute", "logits_and_loss", "temporaries", "workspaces")
CATEGORIES = LASTING + PASSING

# beside the tensors: what the allocator holds without having handed it out, and the driver's own share
OVERHEAD = ("allocator_overhead", "cuda_context")

MEANING = {
    "weights": "parameters and buffers of the model",
    "gradients": "of a parameter's own size: waiting to be projected, or kept because it is not projected",
    "optimizer_states": "Adam's moments, with the scales of 8-bit ones",
    "projectors": "P of every projected matrix",
    "accumulators": "projected gradients summed over the micro-batches, and sketches of the layers being refreshed",
    "activations": "kept by the forward for the backward",
    "recompute": "activations of the block that the backward computes again",
    "logits_and_loss": "one chunk of logits, and the gradients that the loss makes as it goes",
    "temporaries": "inside one operation, one layer's backward or one parameter's update",
    "workspaces": "scratch memory of cuBLAS, cuSOLVER and attention kernels",
    "allocator_overhead": "reserved by PyTorch's allocator and handed to nobody: rounding and fragmentation",
    "cuda_context": "the driver's context and loaded kernels, outside PyTorch",
}


def spoken(category: str) -> str:
    """The name as a person reads it."""
    return category.replace("_", " ").replace("cuda", "CUDA")


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
