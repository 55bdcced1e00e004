"""Training data of several sources mixed by weight, each scored by itself, too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from torch import nn

from galore.trainer.data.batch import Extra, SplitHead
from galore.trainer.data.rows.mapped import MappedData
from galore.trainer.data.rows.mixture import MixedOrder, MixedRows, merged, shares
from galore.trainer.data.rows.textdata import batch_of, evaluation_rows
from galore.trainer.data.score import EvalResult, together
from galore.trainer.data.tokens.cache import fingerprint
from galore.trainer.optim.ranks import Ranks
from galore.trainer.recipe.schema.train import EvalSection


@dataclass(frozen=True)
class MixedData(MappedData):
    """Mapped data whose rows are those of `sources`, which have the same tokenizer and length of rows.

    An epoch is as many sequences as all sources have together; how often each is passed over in it goes by its weight.
    """

    sources: Mapping[str, MappedData] = field(default_factory=dict)
    shares: tuple[int, ...] = ()

    def token_counts(self) -> npt.NDArray[np.int64]:
        """How often each token is a target in an epoch; a source counts by its share, not by its size."""
        counts = np.zeros(self.vocab_size, np.float64)
        for source, share in zip(self.sources.values(), self.shares, strict=True):
            passes = self.num_sequences * share / (sum(self.shares) * source.num_sequences)
            counts += passes * source.token_counts()
        return np.rint(counts).astype(np.int64)

    def score(
        self,
        model: nn.Module,
        split_head: SplitHead,
        micro_batch_size: int,
        settings: EvalSection,
        ranks: Ranks | None = None,
        extra: Extra | None = None,
    ) -> EvalResult:
        """The mean loss over what is held out of all sources together, and of each."""
        rows = cast(MixedRows, self.validation)
        numbers = evaluation_rows(len(rows), self.max_length, settings.max_tokens)
        results, start = dict[str, EvalResult](), 0
        for name, source in self.sources.items():
            stop = start + len(source.validation)
            own = numbers[(numbers >= start) & (numbers < stop)] - start
            starts = range(0, len(own), micro_batch_size)
            how = (self.vocab_size, self.modalities)
            batches = (batch_of(source.validation, own[at : at + micro_batch_size], *how) for at in starts)
            if len(own):
                results[name] = self.scored(model, split_head, batches, settings.mode, ranks, extra)
            start = stop
        whole = together(list(results.values()))
        return replace(whole, sources={name: result.loss_nats for name, result in results.items()})


def mix(sources: dict[str, MappedData], weights: Sequence[float]) -> MixedData:
    """Sources of one recipe as one."""
    parts, counts = list(sources.values()), shares(weights)
    first = parts[0]
    train, validation = (
        MixedRows([getattr(each, side) for each in parts], first.max_length) for side in ("train", "validation")
    )
    old = first.order
    sizes = tuple(each.num_sequences for each in parts)
    order = MixedOrder(old.seed, old.global_batch_size, old.shuffle, sizes, counts)
    summary = merged([{key: value for key, value in each.summary.items() if key not in ALONE} for each in parts])
    summary |= {key: first.summary[key] for key in ALONE if key in first.summary}
    summary["fingerprint"] = fingerprint([[each.summary["fingerprint"] for each in parts], counts])
    summary["sources"] = {
        name: {"share": share / sum(counts), "sequences": len(each.train), "held_out": len(each.validation)}
        for (name, each), share in zip(sources.items(), counts, strict=True)
    }
    notes = [f"{name}: {_words(about)}" for name, about in summary["sources"].items()]
    return MixedData(
        first.tokenizer,
        first.vocab_size,
        train,
        validation,
        first.max_length,
        order,
        summary,
        tuple(notes),
        first.modalities,
        sources=sources,
        shares=counts,
    )


ALONE = ("source", "fingerprint", "vocab_size", "asked_vocab_size")  # of a summary: the same for all, or of one alone


def _words(about: dict[str, Any]) -> str:
    return f"{about['share']:.1%} of the training sequences; it has {about['sequences']:,}, and holds out {about['held_out']:,}"
