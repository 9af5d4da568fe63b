"""What a tracker is to training: something that is told, and that can neither stop nor delay it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

State = Literal["running", "finished", "failed", "interrupted", "killed", "pruned", "not_applicable"]
"""The state of a run, as in ``status.json``: killed, when its process is gone without a word; pruned, when a search has seen
enough; not applicable, when its data do not allow what was asked."""

Line = Mapping[str, Any]
"""One line of ``metrics.jsonl``: ``epoch``, ``step``, ``time`` (Unix seconds) and ``metrics``, a number by name."""


class Tracker(ABC):
    """Tells somebody else about a run whose folder holds everything already.

    Constructor keywords are the option's configuration keys. No method raises because of the other side, and all of
    them together hold up a run for at most five seconds when it is down.
    """

    keeps_model: ClassVar[bool] = False
    """Whether ``finish`` passes on ``model/``, which is made only then."""
    imports: ClassVar[Sequence[str]] = ()
    """Modules that a run imports for it, and that take long: the jobs of a sweep have them from the start."""

    def prepare(self, experiment: str) -> None:
        """Creates what parallel runs would otherwise create at the same time. Called once, before they start."""
        return

    @abstractmethod
    def start(self, folder: Path) -> None:
        """Begins, or goes on with, the run of ``folder``, where ``config.yaml`` and ``status.json`` exist already."""

    @abstractmethod
    def log_metrics(self, line: Line) -> None:
        """Passes on one line of ``metrics.jsonl``, once it is in the file."""

    @abstractmethod
    def finish(self, state: State) -> None:
        """Passes on what the folder holds at the end: test metrics, figures, checkpoint, model."""
