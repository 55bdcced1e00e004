"""Score held-out text: mean cross-entropy in nats, perplexity, and what the frequencies of its tokens alone reach."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from galore.kernels.model.cross_entropy import LossSums
from galore.trainer.common.errors import UserError
from galore.trainer.common.format import exponential
from galore.trainer.data.batch import PLAIN, Batch, Objective, Scoring, SplitHead
from galore.trainer.optim.ranks import Ranks
from galore.trainer.parallel.entered import entered, is_sharded
from galore.trainer.recipe.schema.train import EvalMode

T = TypeVar("T")


@dataclass(frozen=True)
class EvalResult:
    """`loss_nats` is the mean the mode defines, `perplexity` its exponential, `tokens` the targets that were scored.

    `nats` is the sum over them, whatever the mode; `bytes` is what they spell, 0 where that is not known. `sources`
    has the loss of each source, where there are several, and `modalities` the nats and targets of each modality.
    `extra` is the sum of a second loss, and what it is divided by.
    """

    loss_nats: float
    perplexity: float
    tokens: int
    batches: int
    mode: EvalMode
    nats: float = 0.0
    bytes: int = 0
    sources: Mapping[str, float] | None = None
    modalities: Mapping[str, tuple[float, int]] | None = None
    extra: tuple[float, int] | None = None

    @property
    def bits_per_byte(self) -> float | None:
        """What models with different tokenizers are compared by; None where it is not known."""
        return self.nats / math.log(2) / self.bytes if self.bytes else None

    def row(self) -> dict[str, Any]:
        """What the metrics of a run keep of it."""
        known = {} if self.bits_per_byte is None else {"bits_per_byte": self.bits_per_byte}
        return self.final() | known | {"tokens": self.tokens}

    def final(self) -> dict[str, Any]:
        """What the facts of a run keep of the last one."""
        by_source = {} if self.sources is None else {"loss_nats_by_source": dict(self.sources)}
        found = {"loss_nats": self.loss_nats, "perplexity": self.perplexity, "mode": self.mode, **by_source}
        found |= {} if self.modalities is None else by_modality(means(self.modalities))
        return found | ({} if self.extra is None else {"extra_loss": self.extra[0] / max(1, self.extra[1])})


def means(sums: Mapping[str, tuple[float, int]]) -> dict[str, float]:
    """Sum over number by name; what there is nothing of is left out."""
    return {name: total / number for name, (total, number) in sums.items() if number}


def by_modality(losses: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Mean losses by modality under the names of the metrics: in nats, and as perplexities."""
    perplexities = {name: exponential(loss) for name, loss in losses.items()}
    return {"loss_nats_by_modality": dict(losses), "perplexity_by_modality": perplexities}


def evaluate(model: nn.Module, batches: Iterable[Batch], how: Scoring) -> EvalResult:
    """Cross-entropy of `model` on `batches`; leaves the model in the mode (training or not) it was in.

    Of several ranks, which all have the batches, each scores every so many of them, and the sums are added up.

    mode "token": Σ over all targets of −log p(target), divided by the number of targets. The last, smaller batch and
    rows with padding weigh by their tokens. This is the number to compare models by.

    mode "paper": mean of the batch means, divided by n + 1 for n batches, as the evaluation of the GaLore paper's
    official code does (its batch counter starts at one). All published GaLore perplexities carry this factor, which
    lowers the loss by 1/(n+1); the mode exists to compare with them, and for nothing else.

    Sums are float32 within a batch, float64 across batches. Labels are not shifted; −100 is not scored.

    Raises:
        UserError: there is nothing to score.
    """
    mode, ranks, extra = how.settings.mode, how.ranks, how.extra
    objective = Objective(extra=extra)
    summed, tokens, batch_means, count = 0.0, 0, 0.0, 0
    rest = iter(batches)
    first = list(itertools.islice(rest, 1))
    batches, second = itertools.chain(first, rest), (0.0, 0)
    # of a rank, too, that scores none of them
    parts = {name: (0.0, 0) for each in first for name in each.modality_names}
    with scoring(model):
        for batch in _batches_here(model, how.split_head, batches, ranks, objective):
            sums = [] if not batch.targets else _sums(model, how.split_head, batch, objective)
            loss, scored = sum(float(each.cross_entropy) for each in sums), batch.targets
            if scored:
                summed, tokens = summed + loss, tokens + scored
                batch_means, count = batch_means + loss / scored, count + 1
            found = [each.parts for each in sums if each.parts is not None]
            if found:
                parts = _added(parts, batch.by_modality(torch.stack(found).sum(0).tolist()))
            if extra is not None and sums:
                of_batch = sum(float(each.extra) for each in sums if each.extra is not None)
                second = (second[0] + of_batch, second[1] + extra.count(batch))
    if ranks is not None:
        parts = {name: _over(pair, ranks) for name, pair in parts.items()}
        second = _over(second, ranks) if extra is not None else second
        summed, batch_means = ranks.total(summed), ranks.total(batch_means)
        tokens, count = int(ranks.total(tokens)), int(ranks.total(count))
    if not tokens:
        raise nothing_to_score()
    mean = summed / tokens if mode == "token" else batch_means / (count + 1)
    result = EvalResult(mean, exponential(mean), tokens, count, mode, nats=summed)
    return replace(result, modalities=parts or None, extra=None if extra is None else second)


def _added(
    one: Mapping[str, tuple[float, int]], other: Mapping[str, tuple[float, int]]
) -> dict[str, tuple[float, int]]:
    names = dict.fromkeys([*one, *other])
    return {name: (_of(one, name)[0] + _of(other, name)[0], _of(one, name)[1] + _of(other, name)[1]) for name in names}


def _of(pairs: Mapping[str, tuple[float, int]], name: str) -> tuple[float, int]:
    return pairs.get(name, (0.0, 0))


def _over(pair: tuple[float, int], ranks: Ranks) -> tuple[float, int]:
    """A sum and a number, of all ranks together."""
    return ranks.total(pair[0]), int(ranks.total(pair[1]))


def shared_out(items: Iterable[T], ranks: Ranks | None) -> Iterator[T]:
    """This rank's share of what all ranks have: every so many of the items; all of them where it is alone."""
    return iter(items) if ranks is None else itertools.islice(items, ranks.rank, None, ranks.size)


def in_step(items: Iterable[T], ranks: Ranks, forwards: Callable[[T], int], idle: Callable[[T], object]) -> Iterator[T]:
    """`shared_out` for a sharded model, in whose every forward all ranks take part: those with fewer `forwards` to make
    for theirs than another make up for it by `idle` ones, whose result nobody wants."""
    rest = iter(items)
    while now := list(itertools.islice(rest, ranks.size)):
        own = now[ranks.rank : ranks.rank + 1]
        yield from own
        longest = max(now, key=forwards)
        for _ in range(forwards(longest) - sum(map(forwards, own))):
            idle(longest)


def together(results: Sequence[EvalResult]) -> EvalResult:
    """One result of several, as if their batches had been scored together. Raises UserError: there is none."""
    if not results:
        raise nothing_to_score()
    mode = results[0].mode
    extra = 0 if mode == "token" else 1  # what the paper's mode divides by beyond the number of batches
    sizes = [each.tokens if mode == "token" else each.batches + extra for each in results]
    tokens, batches = (sum(getattr(each, name) for each in results) for name in ("tokens", "batches"))
    total = sum(each.loss_nats * size for each, size in zip(results, sizes, strict=True))
    mean = total / (tokens if mode == "token" else batches + extra)
    beside = [each.modalities for each in results if each.modalities is not None]
    seconds = [each.extra for each in results if each.extra is not None]
    nats, known = sum(each.nats for each in results), all(each.bytes for each in results)
    spelled = sum(each.bytes for each in results) if known else 0
    whole = EvalResult(mean, exponential(mean), tokens, batches, mode, nats=nats, bytes=spelled)
    second = (sum(each[0] for each in seconds), sum(each[1] for each in seconds)) if seconds else None
    return replace(whole, modalities=reduce(_added, beside) if beside else None, extra=second)


def nothing_to_score() -> UserError:
    """Nothing that is scored has a target."""
    return UserError("there is no held-out token to score", where="eval", fix="raise eval.max_tokens, or hold out more")


def batch_loss(
    model: nn.Module, split_head: SplitHead, batch: Batch, objective: Objective = PLAIN
) -> tuple[float, int]:
    """Summed loss of one batch, and the number of its targets. No gradient."""
    if not batch.targets:
        return 0.0, 0
    return sum(float(each.cross_entropy) for each in _sums(model, split_head, batch, objective)), batch.targets


@torch.no_grad()
def _sums(model: nn.Module, split_head: SplitHead, batch: Batch, objective: Objective = PLAIN) -> list[LossSums]:
    """What is summed over as many rows of a batch at once as there is room for their logits."""
    size = batch.rows_at_once(model, split_head)
    parts = (batch.rows(start, start + size) for start in range(0, len(batch), size))
    return [_losses(model, split_head, part, objective) for part in parts]


def _batches_here(
    model: nn.Module, split_head: SplitHead, batches: Iterable[Batch], ranks: Ranks | None, objective: Objective
) -> Iterator[Batch]:
    if ranks is None or not is_sharded(model):
        return shared_out(batches, ranks)

    def forwards(batch: Batch) -> int:
        return -(-len(batch) // batch.rows_at_once(model, split_head)) if batch.targets else 0

    return in_step(batches, ranks, forwards, lambda batch: _losses(model, split_head, batch.rows(0, 1), objective))


def _losses(model: nn.Module, split_head: SplitHead, batch: Batch, objective: Objective) -> LossSums:
    return entered(model, lambda: batch.losses(model, split_head, objective))


@contextmanager
def scoring(model: nn.Module) -> Iterator[None]:
    """A context without gradients and dropout; the model is left in the mode it was in."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def unigram_loss_nats(train: npt.NDArray[np.int64], held_out: npt.NDArray[np.int64]) -> float:
    """Mean cross-entropy, in nats per token, of the held-out targets under add-one smoothed training frequencies:

        −log p(t) = log(N + V) − log(n_t + 1)

    with n_t the count of t among the N training targets and V the vocabulary.

    Args:
        train, held_out: how often each token is a target, (V,).

    Raises:
        UserError: nothing is held out.
    """
    if not held_out.any():
        raise UserError("no held-out token to score", where="data.validation_fraction", fix="hold out a share above 0")
    nats = np.log(train.sum() + len(train)) - np.log(train + 1)
    return float(nats @ held_out / held_out.sum())
