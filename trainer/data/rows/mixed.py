"""Training data of several sources mixed by weight, each scored by itself, too."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from galore.trainer.common.format import counted
from galore.trainer.data.batch import Scoring
from galore.trainer.data.rows.mapped import Order, require_same_data
from galore.trainer.data.rows.mixture import ENDLESS, MixedOrder, MixedRows, merged, shares
from galore.trainer.data.rows.modality import Modalities
from galore.trainer.data.rows.packing import Rows
from galore.trainer.data.rows.textdata import TextData, batch_of, evaluation_rows
from galore.trainer.data.rows.tokenbatch import TokenBatch
from galore.trainer.data.score import EvalResult, together
from galore.trainer.data.tokens.cache import fingerprint

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Source(Protocol):
    """One of several. Kinds: `mapped.MappedData`, `stream.StreamedData`."""

    @property
    def train(self) -> Rows:
        """Training rows, ENDLESS of a stream."""

    @property
    def validation(self) -> Rows: ...

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase: ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def max_length(self) -> int: ...

    @property
    def modalities(self) -> Modalities | None: ...

    @property
    def summary(self) -> dict[str, Any]: ...

    @property
    def counted_rows(self) -> int:
        """How many rows `token_counts` is of."""

    def token_counts(self) -> npt.NDArray[np.int64]: ...

    def place(self) -> dict[str, Any] | None:
        """JSON: where the next row of a stream begins; None where every row is found by its number."""

    def go_to(self, place: dict[str, Any], row: int) -> None:
        """Go to `place`, so that the next row is `row`. Raises UserError."""


@dataclass(frozen=True)
class MixedData(TextData):
    """See `batch.Data`. Rows are those of `sources`, which have the same tokenizer and length of rows.

    An epoch is as many sequences as all sources have together, or endless where one is a stream; how often each is
    passed over in it goes by its weight. Steps of a mixture with a stream are asked for in order.
    """

    tokenizer: PreTrainedTokenizerBase
    vocab_size: int
    train: MixedRows
    validation: MixedRows
    max_length: int
    order: MixedOrder
    sources: Mapping[str, Source]
    notes: tuple[str, ...] = ()
    modalities: Modalities | None = None
    facts: dict[str, Any] = field(default_factory=dict)  # beside what the sources tell of themselves

    @property
    def shares(self) -> tuple[int, ...]:
        return self.order.shares

    @property
    def num_sequences(self) -> int | None:
        return None if len(self.train) >= ENDLESS else len(self.train)

    @property
    def summary(self) -> dict[str, Any]:
        own = [each.summary for each in self.sources.values()]
        together = merged([{key: value for key, value in each.items() if key not in ALONE} for each in own])
        together |= {key: own[0][key] for key in ALONE if key in own[0]}
        if streams := sum(len(each.train) >= ENDLESS for each in self.sources.values()):
            together["source"] = counted(streams, "stream") + " beside files" * (streams < len(own))
        together["fingerprint"] = self.fingerprint
        told = zip(self.sources.items(), self.shares, self.train.loss_weights.tolist(), strict=True)
        together["sources"] = {
            name: _about(each, share / sum(self.shares), weight) for (name, each), share, weight in told
        }
        return together | self.facts

    def global_batch(self, step: int) -> TokenBatch:
        numbers = self.order.rows(step, len(self.train))
        batch, weights = batch_of(self.train, numbers, self.vocab_size, self.modalities), self.train.weights(numbers)
        return batch if weights is None else replace(batch, weights=torch.from_numpy(weights))

    @cached_property
    def fingerprint(self) -> str:
        """The fingerprint of the data of all sources, of their shares, and of what their targets count."""
        weights = self.train.loss_weights
        # what was there before targets could count has none of it
        counted = [] if (weights == 1).all() else [weights.tolist()]
        return fingerprint([[each.summary["fingerprint"] for each in self.sources.values()], self.shares, *counted])

    def position(self) -> dict[str, Any]:
        places = {name: each.place() for name, each in self.sources.items()}
        streams = {name: place for name, place in places.items() if place is not None}
        return {"fingerprint": self.fingerprint} | ({"sources": streams} if streams else {})

    def seek(self, position: dict[str, Any], step: int) -> None:
        require_same_data(position, self.summary)
        rows = dict(zip(self.sources, self.order.turns(step), strict=True))
        streams = [name for name, each in self.sources.items() if each.place() is not None]
        # in their order: a source may have got another name
        for name, place in zip(streams, position.get("sources", {}).values(), strict=True):
            self.sources[name].go_to(place, rows[name])

    def token_counts(self) -> npt.NDArray[np.int64]:
        """How often each token is a target in an epoch; a source counts by its share, not by its size."""
        counts = np.zeros(self.vocab_size, np.float64)
        total = sum(each.counted_rows for each in self.sources.values())
        for source, share in zip(self.sources.values(), self.shares, strict=True):
            passes = total * share / (sum(self.shares) * source.counted_rows)
            counts += passes * source.token_counts()
        return np.rint(counts).astype(np.int64)

    def score(self, model: nn.Module, scoring: Scoring) -> EvalResult:
        """The mean loss over what is held out of all sources together, and of each."""
        size = scoring.micro_batch_size
        numbers = evaluation_rows(len(self.validation), self.max_length, scoring.settings.max_tokens)
        results, start = dict[str, EvalResult](), 0
        for name, source in self.sources.items():
            stop = start + len(source.validation)
            own = numbers[(numbers >= start) & (numbers < stop)] - start
            starts = range(0, len(own), size)
            how = (self.vocab_size, self.modalities)
            batches = (batch_of(source.validation, own[at : at + size], *how) for at in starts)
            scored = itertools.dropwhile(lambda batch: not batch.targets, batches)
            if (first := next(scored, None)) is not None:
                results[name] = self.scored(model, itertools.chain([first], scored), scoring)
            start = stop
        whole = together(list(results.values()))
        return replace(whole, sources={name: result.loss_nats for name, result in results.items()})


def mix(
    sources: Mapping[str, Source], weights: Sequence[float], order: Order, loss_weights: Sequence[float] = ()
) -> MixedData:
    """Sources of one recipe as one, their targets of `loss_weights` or counting once. `order`: that of the recipe."""
    parts, first = list(sources.values()), next(iter(sources.values()))
    train, validation = ([getattr(each, side) for each in parts] for side in ("train", "validation"))
    sizes = tuple(len(each) for each in train)
    mixed = MixedData(
        first.tokenizer,
        first.vocab_size,
        MixedRows(train, first.max_length, loss_weights),
        MixedRows(validation, first.max_length),
        first.max_length,
        MixedOrder(order.seed, order.global_batch_size, order.shuffle, sizes, shares(weights)),
        sources,
        modalities=first.modalities,
    )
    notes = [f"{name}: {_words(about)}" for name, about in mixed.summary["sources"].items()]
    return replace(mixed, notes=tuple(notes))


ALONE = ("source", "fingerprint", "vocab_size", "asked_vocab_size")  # of a summary: the same for all, or of one alone


def _about(source: Source, share: float, loss_weight: float) -> dict[str, Any]:
    stream, held_out = source.place(), len(source.validation)
    rows = {"sequences": len(source.train)} if stream is None else {"rows_read": stream["row"]}
    counts = {"loss_weight": loss_weight} if loss_weight != 1 else {}
    return {"share": share, **counts, **rows, "held_out": held_out}


def _words(about: dict[str, Any]) -> str:
    has = f"it has {about['sequences']:,}" if "sequences" in about else "it is streamed"
    counts = f", a target of which counts {about['loss_weight']:g} times" if "loss_weight" in about else ""
    return f"{about['share']:.1%} of the training sequences{counts}; {has}, and holds out {about['held_out']:,}"
