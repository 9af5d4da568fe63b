"""Jobs one after the other, each of which begins while the one before it is written down."""

from mtl_runner.commands.sweeping.apart import Apart, apart
from mtl_runner.commands.sweeping.work import Work, settle, train


class Overlap:
    """At most two at a time: one trains, another is tested, draws its pictures, packs up its model and tells the tracker."""

    def __init__(self) -> None:
        self._begun: list[tuple[Work, Apart]] = []

    def run(self, work: Work) -> None:
        """Waits until the job's training is over, and until all before it have ended."""
        process = Apart(train, (work,), hands_over=True)
        self._begun.append((work, process))
        try:
            process.hand_over()
            self._end(1)
        except KeyboardInterrupt:
            for _, each in self._begun:
                each.interrupt()
            raise

    def end(self) -> None:
        """Waits until all have ended."""
        self._end(0)

    def _end(self, left: int) -> None:
        while len(self._begun) > left:
            work, process = self._begun.pop(0)
            if code := process.end():
                apart(settle, work, code)
