"""No tracker."""

from pathlib import Path

from mtl_runner.tracking.base import Line, State, Tracker


class NullTracker(Tracker):
    """Tells nobody: the run folder is all there is."""

    def start(self, folder: Path) -> None:
        """Does nothing."""

    def log_metrics(self, line: Line) -> None:
        """Does nothing."""

    def finish(self, state: State) -> None:
        """Does nothing."""
