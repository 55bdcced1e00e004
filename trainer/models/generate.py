"""Continue a prompt with a trained model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedTokenizerBase

from galore.trainer.common.errors import UserError
from galore.trainer.common.format import counted
from galore.trainer.data.tokens.chat import ChatEncoder, stop_tokens
from galore.trainer.data.tokens.tokenizer import prompt_of
from galore.trainer.models.adapters.lora import without_adapters
from galore.trainer.models.capacity import positions_of
from galore.trainer.models.classifier import head_modules
from galore.trainer.models.rope.rotary import rotating


@torch.no_grad()
def sample(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    max_new_tokens: int = 60,
    *,
    seed: int = 0,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    chat: bool = False,
) -> str:
    """`prompt` and its continuation, or with `chat` the answer alone: `max_new_tokens` at most, fewer at end-of-text.

    The same `seed` gives the same text on the same device, and the global random state is as before on return; so are
    the model's mode (training or not) and its use of the key/value cache.

    Args:
        temperature: logits are divided by it before the softmax; 0 takes the likeliest token each time.
        top_p: keep the likeliest tokens that together have this probability; 1 keeps all.
        top_k: keep this many of the likeliest tokens; 0 keeps all.

        chat: put the prompt into the tokenizer's chat template, and end with the assistant's turn.

    Raises:
        UserError: the model is a classifier, there is no chat template to use, the prompt has no token, or does not
            leave room for the continuation in the model's positions; or the model predicts nan.
    """
    require_generator(model)
    if chat and tokenizer.chat_template is None:
        raise UserError("the tokenizer has no chat template", where="prompt", fix="continue the text without one")
    ids = prompt_ids(model, tokenizer, prompt, max_new_tokens, chat)
    settings = settings_of(tokenizer, max_new_tokens, temperature, top_p, top_k)
    if chat:
        settings.eos_token_id = stop_tokens(tokenizer)
    continuation = continued(model, ids, settings, seed)
    if chat:
        return str(tokenizer.decode(continuation[len(ids) :], skip_special_tokens=True))
    # decoded with the prompt, since the first new token may carry the space before its word
    text = str(tokenizer.decode(continuation, skip_special_tokens=True))
    return prompt + text[len(str(tokenizer.decode(ids, skip_special_tokens=True))) :]


@torch.no_grad()
def continued(
    model: nn.Module, ids: list[int], settings: GenerationConfig, seed: int, streamer: Any = None
) -> list[int]:
    """`ids` and the tokens that follow; a `streamer` of transformers is given each as soon as it is there."""
    generator: Any = model
    # keys that are in the cache keep the frequencies that they were made with
    longest = len(ids) + settings.max_new_tokens
    with _generating(generator, settings), _seeded(model, seed), rotating(model, length=longest):
        tokens = torch.tensor([ids], device=next(model.parameters()).device)  # (1, prompt)
        output = generator.generate(
            input_ids=tokens,
            attention_mask=torch.ones_like(tokens),
            logits_processor=[_refuse_not_finite],
            streamer=streamer,
        )
    return list(output[0].tolist())


def require_generator(model: nn.Module) -> None:
    """Raise UserError for a model that continues no text."""
    if head_modules(model):
        raise UserError("the model is a classifier: it continues no text", fix="`galore eval` scores it")


def prompt_ids(
    model: Any, tokenizer: PreTrainedTokenizerBase, prompt: str, max_new_tokens: int, chat: bool = False
) -> list[int]:
    """Token ids of `prompt`, as documents that begin so have them in training; with `chat`, as examples do.

    Raises:
        UserError: there are none, or prompt and continuation exceed the model's positions.
    """
    ids = ChatEncoder(tokenizer, "responses").prompt_ids(prompt) if chat else prompt_of(tokenizer, prompt)
    start = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.bos_token_id
    ids = ids or ([] if start is None else [start])  # a document follows the end of another
    if not ids:
        raise UserError("the prompt has no token to start from", where="prompt", fix="give a word to begin with")
    positions = positions_of(model.config)
    if positions is not None and len(ids) + max_new_tokens > positions:
        raise UserError(
            f"the prompt of {counted(len(ids), 'token')} and {max_new_tokens:,} new ones exceed the model's {positions} positions",
            where="prompt",
            fix="shorten the prompt, or ask for fewer new tokens",
        )
    return ids


def rehearse(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, prompt: str, max_new_tokens: int, chat: bool
) -> None:
    """Raise what `sample` will raise whatever the weights are; a chat template may raise anything."""
    prompt_ids(model, tokenizer, prompt, max_new_tokens, chat)
    if chat:
        stop_tokens(tokenizer)


def _refuse_not_finite(ids: Tensor, logits: Tensor) -> Tensor:
    """A draw from nan raises on a CPU, and on a GPU leaves a process that can do nothing more."""
    if not bool(torch.isfinite(logits.max())):  # a token that is ruled out has -inf
        raise UserError(
            "the model predicts nan or inf: it has diverged", fix="use an earlier checkpoint, or train anew more gently"
        )
    return logits


def settings_of(
    tokenizer: PreTrainedTokenizerBase, max_new_tokens: int, temperature: float, top_p: float, top_k: int = 0
) -> GenerationConfig:
    """How tokens are drawn, as `sample` says; end-of-text ends them."""
    end = tokenizer.eos_token_id
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (end if end is not None else 0)
    common = {"max_new_tokens": max_new_tokens, "eos_token_id": end, "pad_token_id": pad, "use_cache": True}
    if temperature == 0:
        return GenerationConfig(do_sample=False, **common)
    return GenerationConfig(do_sample=True, temperature=temperature, top_p=top_p, top_k=top_k, **common)


@contextmanager
def _generating(model: Any, settings: GenerationConfig) -> Iterator[None]:
    """Evaluation mode, and the model's own generation settings set aside, since `generate` would mix them in."""
    base: Any = without_adapters(model)
    config = base.config.get_text_config()
    was_training, before, cached = model.training, base.generation_config, getattr(config, "use_cache", True)
    model.eval()
    base.generation_config, config.use_cache = settings, True
    try:
        yield
    finally:
        base.generation_config, config.use_cache = before, cached
        model.train(was_training)


@contextmanager
def _seeded(model: nn.Module, seed: int) -> Iterator[None]:
    device = next(model.parameters()).device
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
