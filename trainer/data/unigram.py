"""The unigram model: what is reached by knowing how often each token occurs, and nothing else."""

from __future__ import annotations

import numpy as np

from galore.trainer.common.errors import UserError
from galore.trainer.data.batch import TrainingData
from galore.trainer.data.rows.mapped import count_targets

BATCH_ROWS = 256


def unigram_loss_nats(data: TrainingData, max_tokens: int | None = None) -> float:
    """Mean cross-entropy, in nats per token, of the held-out targets under add-one smoothed training frequencies:

        −log p(t) = log(N + V) − log(n_t + 1)

    with n_t the count of t among the N training targets and V the vocabulary. The targets are those that
    `validation_batches(…, max_tokens)` scores.

    Raises:
        UserError: nothing is held out.
    """
    train = data.token_counts()  # (V,)
    nats = np.log(train.sum() + len(train)) - np.log(train + 1)
    held_out = np.zeros_like(train)
    for batch in data.validation_batches(BATCH_ROWS, max_tokens):
        held_out += count_targets(batch.labels.numpy(), len(train))
    if not held_out.any():
        raise UserError("no held-out token to score", where="data.validation_fraction", fix="hold out a share above 0")
    return float(nats @ held_out / held_out.sum())
