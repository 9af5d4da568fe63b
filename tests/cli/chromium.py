"""A headless Chromium that tests look through, over the two pipes of its DevTools protocol."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1600,1200", "--no-first-run")

START = """
import fcntl, os, sys
pipes = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3]]
for number, pipe in enumerate(pipes, 3):
    os.dup2(pipe, number)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""It listens on descriptor 3 and answers on 4."""


class Page:
    """One page."""

    def __init__(self, commands: IO[bytes], answers: IO[bytes]) -> None:
        self._commands, self._answers = commands, answers
        self._number, self._rest, self._session = 0, b"", {}
        self.errors: list[str] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": attached["sessionId"]}
        self._call("Runtime.enable")

    def open(self, address: str) -> None:
        """Go to another page; one that differs in what follows # alone is loaded afresh, too."""
        self._call("Page.navigate", url="about:blank")
        self._call("Page.navigate", url=address)

    def value(self, expression: str) -> Any:
        """What JavaScript says; None where it fails, as while a page is loading."""
        return self._call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def wait(self, expression: str, seconds: float = 60.0) -> Any:
        """The first value of the expression that is not empty."""
        end = time.monotonic() + seconds
        while not (value := self.value(expression)):
            assert time.monotonic() < end, (
                f"{expression}: never came true; the page says: {self.value('document.body.innerText')}"
            )
            time.sleep(0.1)
        return value

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params, **self._session}
        self._commands.write(json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            if answer.get("method") == "Runtime.exceptionThrown":
                self.errors.append(json.dumps(answer["params"]["exceptionDetails"]))
        assert "error" not in answer, f"{method} {params}: {answer['error']}"
        return dict(answer["result"])

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            piece = self._answers.read(1 << 20)
            assert piece, "Chromium has ended"
            self._rest += piece
        message, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(message))


@contextmanager
def chromium(profile: Path) -> Iterator[Page]:
    """A page in a browser of its own, which is ended afterwards; skips the test where there is no Chromium."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"there is no Chromium ({', '.join(NAMES)})")
    (theirs, commands), (answers, ours) = os.pipe(), os.pipe()
    command = [program, *OPTIONS, "--remote-debugging-pipe", f"--user-data-dir={profile}"]
    command = [sys.executable, "-c", START, str(theirs), str(ours), *command]
    with subprocess.Popen(command, pass_fds=(theirs, ours), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as browser:
        os.close(theirs)
        os.close(ours)
        with os.fdopen(commands, "wb", 0) as out, os.fdopen(answers, "rb", 0) as into:
            try:
                yield Page(out, into)
            finally:
                browser.terminate()
