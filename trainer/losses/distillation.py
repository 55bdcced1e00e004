"""Distillation: the divergence of the model's predictions from a teacher's, on every target."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from galore.trainer.common.errors import RunFailed, UserError
from galore.trainer.data.rows.tokenbatch import Seen
from galore.trainer.data.tokens.tokenizer import load_tokenizer
from galore.trainer.losses.extra import About, ExtraLoss, refused
from galore.trainer.models.cpu import optimize_decoder
from galore.trainer.models.decoder import build_decoder
from galore.trainer.models.head import split_head
from galore.trainer.models.isolation import isolate_documents
from galore.trainer.models.rope.rotary import follows_length
from galore.trainer.recipe.schema.model import ModelSection

CHUNK_ELEMENTS = 2**23  # logits of the model, and of the teacher, that exist at once
SHOWN = 3  # tokens in a message
OF_THE_MODEL = ("dtype", "attn_implementation")  # how it is computed; which network it is, its folder alone says


class Distillation(ExtraLoss):
    """T² · KL(teacher ‖ model) at temperature T, summed over targets (Hinton et al., arXiv 1503.02531).

    With `top_k` the teacher's most probable tokens alone, their probabilities made to sum to 1. Logits come in chunks
    and are made again in the backward, so that neither model's exist whole. Those of a head that is more than a
    product, such as Gemma 2's, do, of a micro-batch.
    """

    def __init__(self, about: About) -> None:
        super().__init__(about)
        self.teacher = _teacher(about)

    def summed(self, seen: Seen) -> Tensor:
        teacher = self._of_teacher(seen)
        rows = max(1, CHUNK_ELEMENTS // self.about.vocabulary)
        total = torch.zeros((), device=seen.rows.device, dtype=torch.float32)
        for start in range(0, len(seen.rows), rows):
            total = total + self._chunk(seen, teacher, start, min(start + rows, len(seen.rows)))
        return total

    def _of_teacher(self, seen: Seen) -> Any:
        """What gives the teacher's logits of predicting positions `start` to `stop`."""
        ids = seen.input_ids
        if self.about.tokenizer is None:
            # of a rehearsal, whose numbers are drawn from an assumed vocabulary
            ids = ids.clamp_max(self.teacher.get_input_embeddings().weight.shape[0] - 1)
        with torch.no_grad():
            head = split_head(self.teacher)
            if head is None:
                logits = self.teacher(input_ids=ids, use_cache=False, **seen.arguments).logits
                return lambda start, stop: logits.flatten(0, 1).index_select(0, seen.rows[start:stop])
            hidden = head.hidden(ids, **seen.arguments).flatten(0, 1).index_select(0, seen.rows)
        return lambda start, stop: hidden[start:stop] @ head.weight.T

    def _chunk(self, seen: Seen, teacher: Any, start: int, stop: int) -> Tensor:
        how = partial(divergence, temperature=self.settings.temperature, top_k=self.settings.top_k)

        def once() -> Tensor:
            with torch.no_grad():
                target = teacher(start, stop)
            return how(seen.logits(start, stop), target)

        if not torch.is_grad_enabled():
            return once()
        found: Tensor = checkpoint(once, use_reentrant=False, preserve_rng_state=False)
        return found

    def told(self) -> list[str]:
        teacher, t, k = self.settings.teacher, self.settings.temperature, self.settings.top_k
        kept = f", its {k} most probable tokens" if k is not None else ""
        return [*super().told(), f"teacher: {teacher}, temperature {t:g}{kept}"]


def divergence(logits: Tensor, teacher: Tensor, temperature: float, top_k: int | None) -> Tensor:
    """T² · Σ KL over rows of logits (n, V) and of a teacher's (n, V'), fp32; tokens that one alone has are left out."""
    width = min(logits.shape[1], teacher.shape[1])
    own = (logits.float() / temperature).log_softmax(1)[:, :width]
    wanted = teacher[:, :width].float() / temperature
    if top_k is not None and top_k < width:
        wanted, at = wanted.topk(top_k, dim=1)
        own = own.gather(1, at)
    wanted = wanted.log_softmax(1)
    p = wanted.exp()
    # what the teacher has ruled out counts nothing: 0 · (-inf) would be nan
    return temperature**2 * torch.where(p > 0, p * (wanted - own), 0.0).sum()


def _teacher(about: About) -> PreTrainedModel:
    """The teacher, frozen, where the model is. Raises UserError where it cannot be read, or knows other tokens."""
    recipe, name = about.recipe, about.recipe.extra_loss.teacher
    assert name is not None
    if about.tokenizer is not None:
        _require_same_tokens(about, name)
    try:
        teacher = build_decoder(
            section_of(name, recipe.model),
            about.vocabulary if about.tokenizer is not None else 1,
            device=about.device,
            seed=recipe.train.seed,
            max_length=recipe.data.max_length,
            base_dir=about.base_dir,
        )
    except UserError as error:
        # of a disk that does not answer, the file says more
        error.where = error.where if isinstance(error, RunFailed) else "extra_loss.teacher"
        raise
    if recipe.train.length_stages and follows_length(teacher.config):
        raise UserError(
            "rotates positions by the length of a row, and is held at data.max_length",
            where="extra_loss.teacher",
            fix="leave train.length_stages out, or take a teacher whose rope_type is neither dynamic nor longrope",
        )
    if about.device == "cpu":
        optimize_decoder(teacher)
    if recipe.data.isolates:
        isolate_documents(teacher)
    return teacher.eval().requires_grad_(False)


def section_of(teacher: str, model: ModelSection) -> ModelSection:
    """What a recipe would say of the teacher of `model`: its name, and what is not said of a network."""
    return ModelSection(name_or_path=teacher, **{name: getattr(model, name) for name in OF_THE_MODEL})


def _require_same_tokens(about: About, name: str) -> None:
    assert about.tokenizer is not None
    theirs = load_tokenizer(name, None, about.base_dir, "extra_loss.teacher").get_vocab()
    other = [token for token, number in about.tokenizer.get_vocab().items() if theirs.get(token) != number]
    if other:
        what = f"{len(other):,} tokens, such as {', '.join(map(repr, other[:SHOWN]))}, are others to it"
        raise refused(what, "teacher", "set data.tokenizer to the teacher's, or name a teacher of the same tokenizer")
