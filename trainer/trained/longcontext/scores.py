"""Losses of a search, kept in a file: computed once, whoever asks again, and of one search alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from galore.trainer.common.durable import replace_file
from galore.trainer.common.errors import UserError
from galore.trainer.common.reading import NotReadable, read_bounded


class Scores:
    """Losses that were computed, in a file that is whole at any moment."""

    def __init__(self, file: Path, identity: dict[str, Any], losses: dict[str, float]) -> None:
        self._file, self._identity, self._losses = file, identity, losses

    @classmethod
    def of(cls, file: Path, identity: dict[str, Any]) -> Scores:
        """The scores of an earlier call. Raises UserError where the file is of another search."""
        if not file.exists():
            return cls(file, identity, {})
        try:
            kept = json.loads(read_bounded(file))
            before, losses = kept["search"], {str(key): float(loss) for key, loss in kept["losses"].items()}
        except (OSError, NotReadable, ValueError, RecursionError, KeyError, AttributeError, TypeError) as error:
            what = f"cannot be read: {error}"
            raise UserError(what, where=str(file), fix="move it away to begin anew") from None
        other = [key for key in identity if not isinstance(before, dict) or before.get(key) != identity[key]]
        if other:
            was = before.get(other[0]) if isinstance(before, dict) else None
            raise UserError(
                f"holds another search: {other[0]} was {was}, and is {identity[other[0]]}",
                where=str(file.parent),
                fix="choose another --output-dir, or the arguments of that search",
            )
        return cls(file, identity, losses)

    def loss(self, key: str, compute: Callable[[], float]) -> float:
        """The loss of `key`, computed and written where it is not known."""
        if key not in self._losses:
            self._losses[key] = compute()
            replace_file(self._file, json.dumps({"search": self._identity, "losses": self._losses}, indent=1) + "\n")
        return self._losses[key]
