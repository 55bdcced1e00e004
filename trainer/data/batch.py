"""What data looks like to the training loop: the one contract that every kind of data and of batch keeps.

It imports no torch: what looks for the files of a recipe comes by here, too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeAlias, TypedDict

from galore.trainer.recipe.schema.train import EvalSection

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from galore.kernels.model.cross_entropy import LossSums
    from galore.trainer.optim.ranks import Ranks

IGNORED = -100
"""Label of a position that is no target."""

SECONDS_BETWEEN_REPORTS = 0.1


class Progress(Protocol):
    """Told how far a long preparation is. `total_bytes` is 0 where the end is not known."""

    def __call__(self, done_bytes: int, total_bytes: int, what: str) -> None: ...


def silent(done_bytes: int, total_bytes: int, what: str) -> None:
    """The progress nobody watches."""


def throttled(progress: Progress) -> Progress:
    """`progress`, told ten times a second at most: there are many documents in a second."""
    last = dict[str, float]()

    def report(done_bytes: int, total_bytes: int, what: str) -> None:
        now = time.monotonic()
        if now - last.get(what, -1.0) >= SECONDS_BETWEEN_REPORTS or done_bytes == total_bytes:
            last[what] = now
            progress(done_bytes, total_bytes, what)

    return report


class Head(Protocol):
    """The output head of a causal model, apart from its body: logits (b, s, V) = `hidden`(ids) @ `weight`.T"""

    @property
    def weight(self) -> Tensor:
        """(V, d)"""

    def hidden(self, input_ids: Tensor, **arguments: Any) -> Tensor:
        """Ids (b, s), and what the body takes beside them, to the last hidden states (b, s, d)."""


SplitHead: TypeAlias = "Callable[[nn.Module], Head | None]"
"""Takes a model apart at its head; None where it cannot be. Who knows models has it: `models.head.split_head`."""


class Measures(TypedDict, total=False):
    """The mean loss of a step under the names that the metrics have for it."""

    loss_nats: float
    squared_error: float
    perplexity: float | None  # of what is no text there is none


class Extra(Protocol):
    """A loss beside the cross-entropy. Kinds: `trainer.losses`."""

    weight: float

    def count(self, batch: Any) -> int:
        """What its sum over a batch is divided by."""

    @property
    def counts_targets(self) -> bool:
        """Whether that is the number of targets."""

    def watching(self, batch: Any) -> AbstractContextManager[object]:
        """A context for the forward pass of rows of which it wants to see more than the last hidden states."""

    def summed(self, seen: Any) -> Tensor:
        """Sum over rows, (), with gradient; `rows.tokenbatch.Seen` says of them what a forward pass has shown."""


class Router(Protocol):
    """The loss of a mixture's routers. The kind that there is: `trainer.losses.router`."""

    coefficient: float

    def watching(self) -> AbstractContextManager[object]:
        """A context for one forward pass with gradients."""

    def taken(self) -> Tensor:
        """The loss of the pass that was watched, (), with gradient."""


@dataclass(frozen=True)
class Objective:
    """What is minimized beside the cross-entropy: squares of logsumexp times `z_loss`, a second loss, routers'."""

    z_loss: float = 0.0
    extra: Extra | None = None
    router: Router | None = None


PLAIN = Objective()
"""The cross-entropy alone."""


@dataclass(frozen=True)
class Scoring:
    """How held-out rows are scored: `micro_batch_size` at a time, as section `eval` says.

    Several `ranks` share the work, and all of them get the whole result. The `extra` loss is reported beside it.
    """

    split_head: SplitHead
    micro_batch_size: int = 1
    settings: EvalSection = field(default_factory=EvalSection)
    ranks: Ranks | None = None
    extra: Extra | None = None


class Batch(Protocol):
    """Rows of one forward pass, or of an optimizer step. Kinds: `tokenbatch.TokenBatch`, `labelled.LabelledBatch`."""

    @property
    def sequence_ids(self) -> tuple[int, ...]:
        """Which rows of the training data, length b."""

    @property
    def targets(self) -> int:
        """What the summed loss is divided by: predicted tokens, or examples."""

    @property
    def tokens(self) -> int:
        """What throughput counts."""

    @property
    def skips(self) -> Tensor | None:
        """How much further on than it stands each token is said to be, (b, s); None where all are where they are."""

    def __len__(self) -> int: ...

    def rows(self, start: int, stop: int) -> Self:
        """Rows `start` to `stop`: one micro-batch."""

    def longest_first(self) -> Self:
        """The same rows by their length: those beside each other need little padding."""

    def fitted(self) -> Self:
        """The rows without padding that none of them needs."""

    def losses(self, model: nn.Module, split_head: SplitHead, objective: Objective = PLAIN) -> LossSums:
        """What is summed over the targets, with gradient; of the `objective` what this kind of rows knows."""

    def rows_at_once(self, model: nn.Module, split_head: SplitHead) -> int:
        """How many rows `losses` may take without a gradient: float32 logits of many sequences never exist together."""

    def measures(self, loss: float) -> Measures:
        """What the mean `loss` is."""

    @property
    def modality_names(self) -> tuple[str, ...]:
        """Modalities that its losses are told apart by; () where they are not."""

    def by_modality(self, sums: Sequence[float]) -> dict[str, tuple[float, int]]:
        """Sums over its targets of each modality, `LossSums.parts`, with their targets, by name."""


class Result(Protocol):
    """What a model scored on held-out rows."""

    def row(self) -> dict[str, Any]:
        """What the metrics of a run keep of it."""

    def final(self) -> dict[str, Any]:
        """What the facts of a run keep of the last one."""


class Data(Protocol):
    """Training and held-out rows. Kinds: `mapped.MappedData`, `stream.StreamedData`, `glue.labelled.LabelledData`."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """A fast tokenizer with an EOS and a token to pad with."""

    @property
    def summary(self) -> dict[str, Any]:
        """JSON: source, documents, tokens, sequences, bad rows by kind, fingerprint."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know."""

    @property
    def num_sequences(self) -> int | None:
        """Training rows per epoch; None for a stream."""

    @property
    def has_validation(self) -> bool:
        """Whether anything is held out."""

    def global_batch(self, step: int) -> Batch:
        """All rows of optimizer step `step`, counted from 0.

        Mapped and labelled data: a pure function of (seed, step). Streamed data: steps must be asked for in order.
        """

    def score(self, model: nn.Module, scoring: Scoring) -> Result:
        """What `model` scores on all that is held out; its mode, training or not, is left as it was.

        Raises:
            UserError: there is nothing to score.
        """

    def baseline(self) -> dict[str, Any]:
        """JSON: what is reached without the input, by the frequencies of tokens or by the most frequent label.

        Raises:
            UserError: there is nothing to score.
        """

    def position(self) -> dict[str, Any]:
        """JSON that `seek` takes to go on after the last batch given out."""

    def seek(self, position: dict[str, Any], step: int) -> None:
        """Go to `position`, so that the next batch is that of `step`.

        Raises:
            UserError: the position was written over other data.
        """
