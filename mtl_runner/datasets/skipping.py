"""Items that cannot be used: the first one stops everything, or a bounded number is passed over and written down."""

from dataclasses import dataclass, field
from typing import Literal

from mtl_runner.errors import UserError

OnError = Literal["stop", "skip"]
SHOWN = 3


@dataclass
class Skipping:
    """What is done about errors in the data.

    Args:
        on_error: stop raises them; skip keeps their lines.
        max_errors: of more than these it stops all the same.
    """

    on_error: OnError
    max_errors: int
    lines: list[str] = field(default_factory=list)
    """``file, line: reason`` of each item that was passed over."""

    def __call__(self, error: UserError) -> None:
        if self.on_error == "stop":
            raise error
        self.lines.append(str(error))
        if len(self.lines) > self.max_errors:
            first = "; ".join(self.lines[:SHOWN])
            raise UserError(f"more than dataset.max_errors={self.max_errors} items cannot be used, the first ones: {first}")

    def note(self, what: str) -> list[str]:
        """One line that says how many were passed over, or none."""
        if not self.lines:
            return []
        return [f"{len(self.lines)} {what} could not be used and were passed over (skipped.txt), the first: {self.lines[0]}"]
