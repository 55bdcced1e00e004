"""Choose the kernels' tiles for an RTX 4090 by prediction: `python bench/predict_kernels.py` rewrites the packaged table.

Needs no GPU and takes some minutes of compilation.
"""

from __future__ import annotations

from galore.kernels.triton.predicted import Predictor, table
from galore.kernels.triton.tuning import PREDICTED, write

NOTE = "RTX 4090, predicted by kernels/triton/cost.py, not timed"


def main() -> None:
    write(PREDICTED, {entry.key: tile for entry, tile, _ in table(Predictor())}, NOTE)


if __name__ == "__main__":
    main()
