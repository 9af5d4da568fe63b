"""Time that a machine which is busy, or stands still for ten seconds, does not add to: that says nothing of the code."""

import threading
import time
from collections.abc import Callable

_TICK, _MOST = 0.01, 0.1


class AwakeClock(threading.Thread):
    """Seconds of which the process was awake: between two ticks at most ``_MOST`` pass.

    For upper bounds on what waits; what computes is measured by ``cpu_seconds``.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.now = 0.0
        self.start()

    def run(self) -> None:
        before = time.monotonic()
        while True:
            time.sleep(_TICK)
            now = time.monotonic()
            self.now += min(now - before, _MOST)
            before = now


def cpu_seconds(call: Callable[[], object]) -> float:
    """Processor time of a call."""
    start = time.process_time()
    call()
    return time.process_time() - start
