"""How much of a row is worth feeding: what stands behind its last target is seen by none before it."""

from __future__ import annotations

import numpy as np

from galore.trainer.data.batch import IGNORED
from galore.trainer.data.tokens.store import Ids

MULTIPLE = 64  # of a length that is fed: kernels like it, and few lengths occur


def fed(labels: Ids) -> Ids:
    """How many columns of each row of labels (b, s) are worth feeding, (b,): a multiple of 64, or all."""
    columns = labels.shape[1]
    targets = labels != IGNORED
    behind = np.argmax(targets[:, ::-1], axis=1)  # columns behind the last target; 0 where there is none
    last = np.where(targets.any(axis=1), columns - behind, 1)
    lengths: Ids = np.minimum(columns, -(-last // MULTIPLE) * MULTIPLE)
    return lengths
