"""Sequences of tokens to continue: what is fed, what is predicted, and the loss, whose logits never exist whole."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from galore.kernels.model.cross_entropy import LossSums, linear_loss
from galore.trainer.common.format import exponential
from galore.trainer.data.batch import IGNORED, Measures, SplitHead


@dataclass(frozen=True)
class TokenBatch:
    """See `batch.Batch`."""

    input_ids: Tensor  # (b, s) int64
    labels: Tensor  # (b, s) int64, not shifted: the loss shifts; IGNORED is no target
    sequence_ids: tuple[int, ...]  # which rows of the training data, length b

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
        return TokenBatch(self.input_ids[start:stop], self.labels[start:stop], self.sequence_ids[start:stop])

    def shard(self, worker: int, workers: int) -> TokenBatch:
        """Rows `worker`, `worker + workers`, …: what one of `workers` data-parallel workers takes of a global batch.

        The global batch is a function of the step alone, so the union over workers is the same for any number of them.
        """
        if not 0 <= worker < workers:
            raise ValueError(f"worker {worker} of {workers}")
        its = slice(worker, None, workers)
        return TokenBatch(self.input_ids[its], self.labels[its], self.sequence_ids[its])

    def losses(self, model: nn.Module, split_head: SplitHead, z_loss: float = 0.0) -> LossSums:
        """Cross-entropy, and the z-loss where its coefficient is not 0."""
        device = next(model.parameters()).device
        input_ids = self.input_ids.to(device, non_blocking=True)
        targets = torch.full_like(self.labels, IGNORED)
        targets[:, :-1] = self.labels[:, 1:]
        targets = targets.view(-1)
        head = split_head(model)
        if head is not None:
            # found on the CPU, where the labels are: a GPU need not be waited for
            kept = (targets != IGNORED).nonzero().squeeze(1)
            rows, kept_targets = kept.to(device, non_blocking=True), targets[kept].to(device, non_blocking=True)
            hidden = head.hidden(input_ids).flatten(0, 1).index_select(0, rows)
            return linear_loss(hidden, head.weight, kept_targets, ignore_index=None, z_loss=z_loss)
        targets = targets.to(device, non_blocking=True)
        logits = model(input_ids=input_ids, use_cache=False).logits.flatten(0, 1).float()
        cross_entropy = nn.functional.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")
        z = cross_entropy.new_zeros(())
        if z_loss:
            z = z_loss * logits.logsumexp(1)[targets != IGNORED].square().sum()
        return LossSums(cross_entropy + z, cross_entropy.detach(), z.detach())

    def rows_at_once(self, model: nn.Module, split_head: SplitHead) -> int:
        """All rows where the head can be taken apart; else one by one."""
        return len(self) if split_head(model) is not None else 1

    def measures(self, loss: float) -> Measures:
        return {"loss_nats": loss, "perplexity": exponential(loss)}


def count_targets(labels: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.int64]:
    """How often each id is a target in labels (b, s): the first of a row never is, for nothing predicts it."""
    targets = labels[:, 1:]
    return np.bincount(targets[targets >= 0], minlength=size)
