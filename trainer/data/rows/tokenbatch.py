"""Sequences of tokens to continue: what is fed, what is predicted, and the loss, whose logits never exist whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from galore.kernels.model.cross_entropy import LossSums, linear_loss, sums_by_kind
from galore.kernels.model.segments import Segments
from galore.kernels.ops.fused.softmax import softmax_minus_onehot_
from galore.trainer.common.format import exponential
from galore.trainer.data.batch import IGNORED, PLAIN, Measures, Objective, SplitHead
from galore.trainer.data.rows.lengths import fed
from galore.trainer.data.rows.modality import Modalities
from galore.trainer.data.tokens.store import Ids

# what has an entry for every token, and for every row beside `sequence_ids`, where there is any
PER_COLUMN = ("input_ids", "labels", "positions", "skips")
PER_ROW = (*PER_COLUMN, "extras", "weights")


@dataclass(frozen=True)
class TokenBatch:
    """See `batch.Batch`."""

    input_ids: Tensor  # (b, s) int64
    labels: Tensor  # (b, s) int64, not shifted: the loss shifts; IGNORED is no target
    sequence_ids: tuple[int, ...]  # which rows of the training data, length b
    positions: Tensor | None = None  # (b, s) int64, of each token in its document, where documents are isolated
    modalities: Modalities | None = None
    skips: Tensor | None = None  # (b, s) int64, how much further on than it stands a token is said to be
    extras: Tensor | None = None  # (b, most) float32, numbers of each row for a second loss, nan behind them
    weights: Tensor | None = None  # (b,) float64 on the CPU, what a target of each row counts; None: once

    @classmethod
    def of(
        cls,
        input_ids: Ids,
        labels: Ids,
        sequence_ids: Iterable[int],
        positions: Ids | None,
        modalities: Modalities | None = None,
    ) -> TokenBatch:
        """Rows (b, s) as tensors. Nothing predicts the first token of an isolated document."""
        if positions is not None:
            labels = np.where(positions == 0, IGNORED, labels)
        at = None if positions is None else torch.from_numpy(positions)
        return cls(torch.from_numpy(input_ids), torch.from_numpy(labels), tuple(sequence_ids), at, modalities)

    def __len__(self) -> int:
        return len(self.sequence_ids)

    @property
    def targets(self) -> int:
        """Positions that are predicted: the first of a row never is."""
        return int((self.labels[:, 1:] != IGNORED).sum())

    @property
    def tokens(self) -> int:
        """Positions that are fed, padding included."""
        return self.input_ids.numel()

    def rows(self, start: int, stop: int) -> TokenBatch:
        return self._at(slice(start, stop))

    def shard(self, worker: int, workers: int) -> TokenBatch:
        """Rows `worker`, `worker + workers`, …: what one of `workers` data-parallel workers takes of a global batch.

        The global batch is a function of the step alone, so the union over workers is the same for any number of them.
        """
        if not 0 <= worker < workers:
            raise ValueError(f"worker {worker} of {workers}")
        return self._at(slice(worker, None, workers))

    def longest_first(self) -> TokenBatch:
        """The same rows by how much of them is worth feeding, so that few of their like need little padding.

        Documents that are isolated share rows, of which all is fed.
        """
        lengths = self._fed
        if self.positions is not None or (lengths == lengths[0]).all():
            return self
        return self._at(torch.from_numpy(np.argsort(-lengths, kind="stable")))

    def fitted(self) -> TokenBatch:
        """The rows without the columns at their end that none of them needs."""
        if self.positions is not None:
            return self
        longest = int(self._fed.max())
        held = {name: getattr(self, name) for name in PER_COLUMN}
        return replace(self, **{name: each[:, :longest] for name, each in held.items() if each is not None})

    @property
    def _fed(self) -> Ids:
        return fed(self.labels.numpy())

    def _at(self, rows: slice | Tensor) -> TokenBatch:
        held = {name: getattr(self, name) for name in PER_ROW}
        ids = tuple(torch.tensor(self.sequence_ids)[rows].tolist())
        return replace(self, sequence_ids=ids, **{name: each[rows] for name, each in held.items() if each is not None})

    def cut(self, pieces: int) -> TokenBatch:
        """Every row as so many shorter ones, one after the other; documents see each other."""
        ids = tuple(each for each in self.sequence_ids for _ in range(pieces))
        shape = (len(ids), self.input_ids.shape[1] // pieces)
        return replace(
            self,
            input_ids=self.input_ids.reshape(shape),
            labels=self.labels.reshape(shape),
            sequence_ids=ids,
            weights=None if self.weights is None else self.weights.repeat_interleave(pieces),
        )

    def losses(self, model: nn.Module, split_head: SplitHead, objective: Objective = PLAIN) -> LossSums:
        """Cross-entropy, by modality too where there are several, the z-loss if there is one, and an extra loss."""
        extra, device = objective.extra, next(model.parameters()).device
        fed = Fed(self.input_ids.to(device, non_blocking=True), self._arguments(device))
        targets, head = self._targets(), split_head(model)
        if head is not None:
            kept = Kept.of(targets, device)
            with nullcontext() if extra is None else extra.watching(self):
                hidden = head.hidden(fed.input_ids, **fed.arguments).flatten(0, 1).index_select(0, kept.rows)
            return self._of_hidden(hidden, head.weight, kept, fed, objective)
        with nullcontext() if extra is None else extra.watching(self):
            logits = model(input_ids=fed.input_ids, use_cache=False, **fed.arguments).logits.flatten(0, 1).float()
        if self.modalities is None and self.weights is None and extra is None:
            return _plain(logits, targets, objective.z_loss)
        return self._of_logits(logits, targets, fed, objective)

    def _targets(self) -> Tensor:
        """What each position predicts, (b · s,): the label behind it."""
        targets = torch.full_like(self.labels, IGNORED)
        targets[:, :-1] = self.labels[:, 1:]
        return targets.view(-1)

    def _arguments(self, device: torch.device) -> dict[str, Any]:
        """What a model is given beside ids; nothing where every row is one document whose tokens are where they are."""
        arguments = {} if self.positions is None else model_arguments(self.positions, device)
        if self.skips is None:
            return arguments
        own = torch.arange(self.skips.shape[1]) if self.positions is None else self.positions
        return {**arguments, "position_ids": (own + self.skips).to(device, non_blocking=True)}

    def _counted(self, kept: Kept, like: Tensor) -> dict[str, Any]:
        """What `linear_loss` is told of targets beside what they are, on the device of `like`."""
        dtype = torch.promote_types(like.dtype, torch.float32)
        there: dict[str, Any] = {"device": like.device, "non_blocking": True}
        told, weights = dict[str, Any](), None
        if self.modalities is not None:
            kinds = self.modalities.of_targets(kept.targets_here)
            weights = self.modalities.weights_of(kinds, dtype)
            told = {"kinds": kinds.to(**there), "num_kinds": len(self.modalities.names)}
        if self.weights is not None:
            of_rows = self.weights[kept.here // self.labels.shape[1]].to(dtype)
            weights = of_rows if weights is None else weights * of_rows
        return told if weights is None else {**told, "weights": weights.to(**there)}

    def _of_hidden(self, hidden: Tensor, weight: Tensor, kept: Kept, fed: Fed, objective: Objective) -> LossSums:
        """Sums from the last hidden states (n, d) of what is `kept`."""
        sums = linear_loss(
            hidden,
            weight,
            kept.targets,
            ignore_index=None,
            z_loss=objective.z_loss,
            softmax=softmax_minus_onehot_,
            **self._counted(kept, hidden),
        )
        if objective.extra is None:
            return sums
        seen = Seen(self, *fed, kept.rows, kept.targets, partial(_logits, hidden, weight))
        return sums._replace(extra=objective.extra.summed(seen))

    def _of_logits(self, logits: Tensor, targets: Tensor, fed: Fed, objective: Objective) -> LossSums:
        """The same from logits that exist, (b · s, V), and targets (b · s,) on the CPU."""
        kept, z_loss, extra = Kept.of(targets, logits.device), objective.z_loss, objective.extra
        counted, logits = self._counted(kept, logits), logits.index_select(0, kept.rows)
        nll = nn.functional.cross_entropy(logits, kept.targets, reduction="none")
        squares = logits.logsumexp(1).square() if z_loss else torch.zeros_like(nll)
        weights = counted.get("weights")
        z = z_loss * (squares if weights is None else weights * squares).sum()
        total, found = (nll if weights is None else weights * nll).sum() + z, nll.detach()
        parts = None if self.modalities is None else sums_by_kind(found, counted["kinds"], counted["num_kinds"])
        seen = Seen(self, *fed, kept.rows, kept.targets, lambda start, stop: logits[start:stop])
        second = None if extra is None else extra.summed(seen)
        return LossSums(total, found.sum(), z.detach(), parts, second)

    @property
    def modality_names(self) -> tuple[str, ...]:
        return () if self.modalities is None else self.modalities.names

    def by_modality(self, sums: Sequence[float]) -> dict[str, tuple[float, int]]:
        if self.modalities is None:
            return {}
        labels = self.labels[:, 1:]
        counts = self.modalities.counts(labels[labels != IGNORED])
        return dict(zip(self.modalities.names, zip(sums, counts, strict=True), strict=True))

    def rows_at_once(self, model: nn.Module, split_head: SplitHead) -> int:
        """All rows where the head can be taken apart; else one by one."""
        return len(self) if split_head(model) is not None else 1

    def measures(self, loss: float) -> Measures:
        return {"loss_nats": loss, "perplexity": exponential(loss)}


class Fed(NamedTuple):
    """What a model was given: ids (b, s), and the arguments beside them."""

    input_ids: Tensor
    arguments: dict[str, Any]


class Kept(NamedTuple):
    """Positions that predict a target, and the targets, (n,): on the CPU and on the model's device.

    They are found where the labels are, before the forward pass: a GPU need not be waited for.
    """

    here: Tensor
    targets_here: Tensor
    rows: Tensor
    targets: Tensor

    @classmethod
    def of(cls, targets: Tensor, device: torch.device) -> Kept:
        """Positions of targets (b · s,), which are on the CPU."""
        here = (targets != IGNORED).nonzero().squeeze(1)
        both = here, targets[here]
        return cls(*both, *(each.to(device, non_blocking=True) for each in both))


@dataclass(frozen=True)
class Seen:
    """What a forward pass has shown of a batch, where a second loss can see it.

    Args:
        rows: which of the b · s positions predict a target, (n,).
        logits: of predicting positions `start` to `stop`, (stop - start, V), made when they are asked for.
        arguments: what the model was given beside the ids.
    """

    batch: TokenBatch
    input_ids: Tensor  # (b, s)
    arguments: dict[str, Any]
    rows: Tensor
    targets: Tensor  # (n,)
    logits: Callable[[int, int], Tensor]


def _plain(logits: Tensor, targets: Tensor, z_loss: float) -> LossSums:
    """Sums of logits (b · s, V) where every target (b · s,) counts once."""
    targets = targets.to(logits.device, non_blocking=True)
    cross_entropy = nn.functional.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")
    z = cross_entropy.new_zeros(())
    if z_loss:
        z = z_loss * logits.logsumexp(1)[targets != IGNORED].square().sum()
    return LossSums(cross_entropy + z, cross_entropy.detach(), z.detach())


def _logits(hidden: Tensor, weight: Tensor, start: int, stop: int) -> Tensor:
    return hidden[start:stop] @ weight.T


def model_arguments(positions: Tensor, device: torch.device) -> dict[str, Any]:
    """What a model is given beside ids (b, s) whose documents do not see each other, under transformers' names.

    Args:
        positions: of each token in its document, (b, s) on the CPU; 0 begins one.
    """
    segments = Segments.of(positions, device)
    bounds, longest = segments.bounds, segments.longest
    return {
        "position_ids": positions.to(device, non_blocking=True),
        "segments": segments,
        "cu_seq_lens_q": bounds,
        "cu_seq_lens_k": bounds,
        "max_length_q": longest,
        "max_length_k": longest,
    }


def count_targets(labels: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.int64]:
    """How often each id is a target in labels (b, s): the first of a row never is, for nothing predicts it."""
    targets = labels[:, 1:]
    return np.bincount(targets[targets >= 0], minlength=size)
