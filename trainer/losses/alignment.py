"""Attention alignment: where a model looks when it speaks of codes, against maps that were given (Lavender, 2025)."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from galore.trainer.data.batch import IGNORED
from galore.trainer.data.rows.tokenbatch import Seen, TokenBatch
from galore.trainer.data.tokens.given import are_maps, map_places
from galore.trainer.losses.extra import About, ExtraLoss, on_device
from galore.trainer.losses.watch import ATTENTION
from galore.trainer.models.adapters.lora import without_adapters

HIDDEN = 16  # of the aligner, small beside any model: it must not learn the maps by itself
TINY = 1e-8


class Aligner(nn.Module):
    """Attention of several heads at one position, (…, heads), to one number: a mean of heads, and a small correction.

    It starts as the plain mean, so that the first errors are the model's own.
    """

    def __init__(self, heads: int, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.mix = nn.Linear(heads, 1, bias=False)
            self.inner, self.outer = nn.Linear(heads, HIDDEN), nn.Linear(HIDDEN, 1)
        nn.init.constant_(self.mix.weight, 1 / heads)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, attention: Tensor) -> Tensor:
        out: Tensor = self.mix(attention) + self.outer(nn.functional.gelu(self.inner(attention)))
        return out.squeeze(-1)


class Places(NamedTuple):
    """Places in a row: positions that predict what is said of codes (t,), the codes' (p,), and the map (t or 1, p)."""

    queries: Tensor
    keys: Tensor
    map: Tensor


class AttentionAlignment(ExtraLoss):
    """Mean squared error between aligned attention and maps, over all positions of a row, summed over rows with a map.

    Attention and map are both scaled to a mean of 1 over the codes: an even one has an error against any map, and no
    error depends on how many codes there are.
    """

    sees = (ATTENTION,)

    def __init__(self, about: About) -> None:
        super().__init__(about)
        assert self.watch is not None
        base: Any = without_adapters(about.model)
        heads = base.config.get_text_config().num_attention_heads * len(self.watch.layers)
        self.module = on_device(Aligner(heads, about.recipe.train.seed), about.device)

    def count(self, batch: TokenBatch) -> int:
        """Rows that have a map."""
        return sum(len(each.queries) > 0 for each in _places(batch))

    def watching(self, batch: TokenBatch) -> AbstractContextManager[Any]:
        assert self.watch is not None
        return self.watch.during(padded([each.queries for each in _places(batch)]))

    def summed(self, seen: Seen) -> Tensor:
        assert self.watch is not None
        assert self.module is not None
        found = torch.cat([self.watch.attention[layer] for layer in self.watch.layers], dim=1)  # (b, heads, q, s)
        return alignment_error(found, _places(seen.batch), self.module)


def alignment_error(attention: Tensor, rows: list[Places], aligner: nn.Module) -> Tensor:
    """Σ over rows of the mean squared error of `aligner`, given attention (b, heads, most queries, s), against maps."""
    total = torch.zeros((), device=attention.device, dtype=torch.float32)
    for row, (queries, keys, wanted) in enumerate(rows):
        if not len(queries):
            continue
        at, goal = keys.to(attention.device), wanted.to(attention.device)
        seen = attention[row, :, : len(queries)].index_select(2, at).permute(1, 2, 0)  # (t, p, heads)
        shares = seen / (seen.mean(1, keepdim=True) + TINY)
        goal = goal / (goal.mean(1, keepdim=True) + TINY)
        total = total + (aligner(shares) - goal).square().mean()
    return total


def padded(positions: list[Tensor]) -> Tensor:
    """Positions (b, most), 0 behind those of rows that have fewer."""
    most = max(1, *(len(each) for each in positions))
    return torch.stack([nn.functional.pad(each, (0, most - len(each))) for each in positions])


def _places(batch: TokenBatch) -> list[Places]:
    """Places of every row of a batch; without queries where it has no map."""
    modalities = batch.modalities
    if batch.extras is None or modalities is None:
        return [_nothing()] * len(batch)
    rows = zip(batch.input_ids, batch.labels, batch.extras, strict=True)
    return [_of_row(ids, labels, extra[~extra.isnan()], modalities.codes) for ids, labels, extra in rows]


def _nothing() -> Places:
    nowhere = torch.empty(0, dtype=torch.int64)
    return Places(nowhere, nowhere, torch.empty(0, 0, dtype=torch.float32))


def _of_row(ids: Tensor, labels: Tensor, numbers: Tensor, codes: Tensor) -> Places:
    keys, queries = map_places(ids, labels != IGNORED, codes)
    if not are_maps(len(numbers), keys, queries):
        return _nothing()
    return Places(queries, keys, numbers.view(-1, len(keys))[: len(queries)])
