"""Optional packages, imported where they are needed."""

from __future__ import annotations

import importlib
from typing import Any

from galore.trainer.errors import UserError


def require(module: str, extra: str) -> Any:
    """The imported `module`, which the extra `extra` of this package brings.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        raise UserError(
            f"this recipe needs the package `{name}`, which cannot be imported ({error})",
            fix=f"pip install 'galore-llm[{extra}]'",
        ) from error
