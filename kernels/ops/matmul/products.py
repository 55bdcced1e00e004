"""Both products of a linear layer in 8 bits.

    forward          Y = X Wᵀ    ≈ Q(X) Q(W)ᵀ      to nearest: the smallest error
    input gradient   dX = dY W   ≈ Q(dY) Q(W)      by chance: E = dY W exactly

Gradients of many tokens, micro-batches and steps are added up: noise averages out in their sum, a bias does not, and to
nearest all that is below half a step of its row would be lost each time. Rounding by chance costs up to twice the
variance. Behind a forward comes what is not linear, and nothing is unbiased there: it takes the smaller error.
"""

from __future__ import annotations

import weakref

from torch import Tensor

from galore.kernels.linear import as_rows
from galore.kernels.ops.dispatch import Backend
from galore.kernels.ops.matmul.codes import coded_product, row_codes, weight_codes
from galore.kernels.ops.matmul.draws import Draws
from galore.kernels.ops.matmul.format import Format
from galore.kernels.storage.coded import Coded


class Inputs:
    """Codes of the one input that several layers multiply: the first of them makes them, the last one forgets them."""

    def __init__(self) -> None:
        self._of: weakref.ref[Tensor] | None = None
        self._version, self._left = 0, 0
        self._codes: Coded | None = None

    def codes(self, x: Tensor, form: Format, users: int, backend: Backend = "auto") -> Coded:
        """Codes of x (…, n), rounded to nearest, for one of the `users` layers that are given it."""
        known = self._of is not None and self._of() is x and self._version == x._version
        if not known or self._codes is None:
            self._codes = None  # those of another input go before these come
            self._codes = row_codes(as_rows(x), form, backend=backend)
            self._of, self._version, self._left = weakref.ref(x), x._version, users
        codes, self._left = self._codes, self._left - 1
        if self._left <= 0:
            self._codes = None
        return codes


class EightBit:
    """Products of one layer, its `number` in the model; a weight is (m, n), with its scales where it is in int8.

    `users` layers are given the same input, and share `inputs`.
    """

    def __init__(
        self,
        form: Format,
        draws: Draws,
        number: int = 0,
        backend: Backend = "auto",
        inputs: Inputs | None = None,
        users: int = 1,
    ) -> None:
        self.form, self.draws, self.number, self.backend = form, draws, number, backend
        self.inputs, self.users = inputs or Inputs(), users

    def forward(self, x: Tensor, weight: Tensor, scales: Tensor | None = None) -> Tensor:
        """(…, n) → (…, m), in the dtype of x."""
        w = weight_codes(weight, scales, self.form, x.dtype, transposed=False, backend=self.backend)
        return self._product(self.inputs.codes(x, self.form, self.users, self.backend), w, x)

    def input_gradient(self, dy: Tensor, weight: Tensor, scales: Tensor | None = None) -> Tensor:
        """(…, m) → (…, n), in the dtype of dy."""
        drawn = self.draws.of(self.number), self.draws.of(self.number)
        w = weight_codes(weight, scales, self.form, dy.dtype, transposed=True, draw=drawn[0], backend=self.backend)
        a = row_codes(as_rows(dy), self.form, drawn[1], backend=self.backend)
        return self._product(a, w, dy)

    def _product(self, a: Coded, w: Coded, like: Tensor) -> Tensor:
        out = coded_product(a, w, self.form, like.dtype, self.backend)
        return out.view(*like.shape[:-1], -1)
