"""The loss of held-out tokens by how many stand before them in their row."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from galore.trainer.common.errors import UserError
from galore.trainer.common.format import exponential
from galore.trainer.data.batch import IGNORED
from galore.trainer.data.rows.tokenbatch import TokenBatch
from galore.trainer.data.score import nothing_to_score, scoring
from galore.trainer.models.head import split_head

FIRST = 64  # tokens of the first range; each that follows is as long as all before it
# positions whose logits exist together; of a head that is more than a product, those of one row do
AT_ONCE = 256


def loss_by_position(model: nn.Module, batches: Iterable[TokenBatch]) -> list[dict[str, Any]]:
    """{from, to, loss_nats, perplexity, tokens} of each range of positions, the first and the last included.

    Raises:
        UserError: there is nothing to score, or documents are isolated, whose positions are not those of the row.
    """
    sums, counts = torch.zeros(0, dtype=torch.float64), torch.zeros(0, dtype=torch.int64)
    with scoring(model):
        for batch in batches:
            if batch.positions is not None:
                what = "positions are those of a document, of which a row has several"
                raise UserError(what, where="--by-position", fix="set data.isolate_documents=false")
            losses, scored = _losses(model, batch)
            if not len(sums):
                sums, counts = sums.new_zeros(losses.shape[1]), counts.new_zeros(losses.shape[1])
            sums += losses.sum(0)
            counts += scored.sum(0)
    if not counts.sum():
        raise nothing_to_score()
    ranges, start = list[dict[str, Any]](), 1
    while start <= len(counts):
        stop = min(len(counts) + 1, max(FIRST, 2 * start if start > 1 else FIRST))
        tokens, nats = int(counts[start - 1 : stop - 1].sum()), float(sums[start - 1 : stop - 1].sum())
        if tokens:
            mean = nats / tokens
            told = {"from": start, "to": stop - 1, "loss_nats": mean, "perplexity": exponential(mean)}
            ranges.append(told | {"tokens": tokens})
        start = stop
    return ranges


def _losses(model: nn.Module, batch: TokenBatch) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each token but the first, and whether it is a target, (b, s − 1) on the CPU in float64."""
    device = next(model.parameters()).device
    ids, targets = batch.input_ids.to(device), batch.labels[:, 1:].to(device)
    head = split_head(model)
    if head is not None:
        losses = _in_parts(head.hidden(ids), targets, head.weight)
    else:
        rows = zip(ids.unsqueeze(1), targets.unsqueeze(1), strict=True)  # (1, s) and (1, s − 1)
        losses = torch.cat([_in_parts(model(input_ids=row, use_cache=False).logits, of) for row, of in rows])
    return losses.double().cpu(), (targets != IGNORED).cpu()


def _in_parts(shown: Tensor, targets: Tensor, weight: Tensor | None = None) -> Tensor:
    """Losses (b, s − 1) of targets (b, s − 1) from logits (b, s, V), or from hidden states and the head's `weight`."""
    parts = list[Tensor]()
    for start in range(0, targets.shape[1], AT_ONCE):
        wanted = targets[:, start : start + AT_ONCE]
        part = shown[:, start : start + wanted.shape[1]]
        logits = (part if weight is None else part @ weight.T).float()
        parts.append(nn.functional.cross_entropy(logits.mT, wanted, ignore_index=IGNORED, reduction="none"))
    return torch.cat(parts, 1)
