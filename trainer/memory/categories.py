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
