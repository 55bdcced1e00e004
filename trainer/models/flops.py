"""Floating-point operations of training, counted from the model, and the share of the device's peak they reach."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from galore.trainer.machine.hardware import Peak
from galore.trainer.models.retnet.configuration_retnet import RetNetConfig
from galore.trainer.optim.groups import is_trained


def flops_per_token(model: nn.Module, seq_len: int) -> int | None:
    """FLOPs that one token of a sequence of `seq_len` costs in training: forward and backward, no recomputation.

        2·N + 2·N + 2·N_trained + 3·A,   A = 4·L·H·Q·P

    N is the number of matrix elements a token is multiplied with: every linear layer and the output head, tied or not,
    but not the embedding look-up. The terms are the forward pass, the gradients of the inputs, the gradients of the
    weights that are trained (all but for adapters), and attention: L layers, H query heads of size Q, P positions
    that a token sees in the mean. With N_trained = N that is 6N + 12LHQP, as in PaLM (arXiv 2204.02311, B), but
    there a token pays for all S, more than a causal kernel computes: MFU could pass 1. FlashAttention-2 takes half
    (arXiv 2307.08691), and P = (S + 1)/2 is exact. Where tokens see those after them, P = S. Of retention A is what its
    chunks and states take. Norms, activations, biases and the softmax are left out.

    Returns:
        None where matrices outside linear layers (mixture of experts, convolutions) make the count depend on more than
        the shapes.
    """
    matrices = _matrices(model)
    if matrices is None:
        return None
    passes = sum(weight.numel() * (3 if is_trained(weight) else 2) for weight in matrices)
    return 2 * passes + 3 * mixing_flops(model, seq_len)


def recomputed_flops_per_token(model: Any, seq_len: int, blocks: bool | int) -> int | None:
    """FLOPs of one more forward of the first `blocks` blocks, or of all, for one token: 2·N_blocks + A."""
    matrices = _matrices(model)
    if matrices is None or not blocks:
        return None if matrices is None else 0
    head = model.get_output_embeddings()
    inside = sum(weight.numel() for weight in matrices if head is None or weight is not head.weight)
    share = 1.0 if blocks is True else blocks / model.config.get_text_config().num_hidden_layers
    return round(share * (2 * inside + mixing_flops(model, seq_len)))


def mixing_flops(model: Any, seq_len: int) -> int:
    """A: FLOPs of one token's forward in which it meets others, over all layers."""
    config = model.config.get_text_config()
    if not isinstance(config, RetNetConfig):
        return 2 * attention_width(model) * (seq_len + 1 if _is_causal(model) else 2 * seq_len)
    keys, values, heads = config.hidden_size, config.hidden_size * config.value_expansion, config.num_attention_heads
    scores, states = min(seq_len, config.chunk_size) * (keys + values), 2 * keys * values // heads
    return 2 * config.num_hidden_layers * (scores + (states if seq_len > config.chunk_size else 0))


def _is_causal(model: nn.Module) -> bool:
    """Whether no token sees a later one: encoders say that theirs do."""
    return all(getattr(module, "is_causal", True) for module in model.modules())


def attention_width(model: Any) -> int:
    """L·H·Q: the number of query channels over all layers."""
    config = model.config.get_text_config()
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(config.num_hidden_layers * config.num_attention_heads * head_dim)


def model_flops_utilization(flops: int | None, tokens_per_second: float, peak: Peak) -> float | None:
    """MFU: achieved model FLOPs as a share of the device's peak, 0 to 1; None where either is not known."""
    if flops is None or peak.flops_per_second is None:
        return None
    return flops * tokens_per_second / peak.flops_per_second


def _matrices(model: nn.Module) -> list[nn.Parameter] | None:
    """The weight of every matrix product; a weight tied to the embedding is there through the head."""
    weights: list[nn.Parameter] = []
    known: set[int] = set()
    for module in model.modules():
        if isinstance(module, (nn.Linear, Conv1D)):
            weight: Any = module.weight
            weights.append(weight)
            known.add(id(weight))
        elif isinstance(module, nn.Embedding):
            known.add(id(module.weight))
    if any(parameter.dim() > 1 and id(parameter) not in known for parameter in model.parameters()):
        return None
    return weights
