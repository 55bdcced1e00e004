"""What is wrong with a file or a row of it, before anyone knows which file it is."""

from __future__ import annotations

from galore.trainer.common.errors import UserError


class Fault(Exception):  # noqa: N818 - it names a row
    """Becomes a UserError as soon as it is known where it happened."""

    def __init__(self, what: str, fix: str = "mend or remove the row", line: int | None = None) -> None:
        super().__init__(what)
        self.what, self.fix, self.line = what, fix, line

    def at(self, file: str, line: int | None) -> UserError:
        """`line`, from 1, counts where the fault itself does not know better."""
        number = self.line or line
        return UserError(self.what, where=f"{file}:{number}" if number else file, fix=self.fix)
