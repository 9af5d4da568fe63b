"""``mtl-run -m``: the jobs of a grid, through one of Hydra's launchers."""

import os
import shlex
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.core.plugins import Plugins
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, read_write

from mtl_runner.commands.job import Job
from mtl_runner.commands.lock import alive, held, only_here, read_status
from mtl_runner.commands.messages import first_line
from mtl_runner.commands.precheck import Checked
from mtl_runner.commands.sweeping.apart import apart
from mtl_runner.commands.sweeping.board import FINE, LEFT, Board
from mtl_runner.commands.sweeping.claims import claimed
from mtl_runner.commands.sweeping.composing import SweepLoader
from mtl_runner.commands.sweeping.desk import desk
from mtl_runner.commands.sweeping.earlier import compare
from mtl_runner.commands.sweeping.grid import QUEUED, GridJob, free, label, swept
from mtl_runner.commands.sweeping.launchers import Way, keep_output_apart, way
from mtl_runner.commands.sweeping.orders import Order, Orders, cores, stop
from mtl_runner.commands.sweeping.work import Work, settle
from mtl_runner.errors import UserError

LAUNCHES = 2
"""What a launcher has lost is launched once more."""
PATIENCE = 30.0
"""Seconds that interrupted jobs have for their last words."""


def sweep(found: Checked, job: Job, arguments: Sequence[str]) -> int:
    """Runs the jobs that are pending, shows what became of all of them, and returns the exit code.

    Args:
        found: all the jobs of the grid.
        job: what is called with the configuration of each.
        arguments: of the command line.
    """
    config, jobs = found.master, found.jobs
    assert config is not None and jobs is not None and found.compose is not None
    folder = Path(config.hydra.sweep.dir).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    with only_here(folder):
        OmegaConf.save(config, folder / "multirun.yaml")
        return _sweep(HydraContext(SweepLoader(found.compose), Callbacks(config)), found, Board(folder, jobs), job, arguments)


def _sweep(context: HydraContext, found: Checked, board: Board, job: Job, arguments: Sequence[str]) -> int:
    config, jobs = found.master, board.jobs
    assert config is not None
    callbacks, name = context.callbacks, config.hydra.job.config_name
    callbacks.on_multirun_start(config=config, config_name=name)
    launching = _Launching(context, config, job, found.imports)
    try:
        with board:
            launching.all(board)
            _settle(board, -signal.SIGKILL)
    except KeyboardInterrupt:
        _settle(board, 130)
        board.look()
        board.show()
        print(f"interrupted; go on with: mtl-run {shlex.join(_with_skipping(arguments))}", file=sys.stderr)
        return 130
    callbacks.on_multirun_end(config=config, config_name=name)
    board.show()
    return 0 if all(each.state in FINE for each in jobs) else 1


class _Launching:
    """Hands jobs to the configured launcher.

    Args:
        context: Hydra's.
        config: without swept values.
        job: what is called with the configuration of each.
        imports: modules that every job imports.
    """

    def __init__(self, context: HydraContext, config: DictConfig, job: Job, imports: Sequence[str]) -> None:
        self.context, self.config, self.job, self.imports = context, config, job, imports
        if (logger := OmegaConf.select(config, "hydra.hydra_logging.loggers.hydra")) is not None:
            with read_write(logger):
                logger.level = "WARNING"  # launchers list the jobs by numbers of their own
        keep_output_apart(config.hydra.launcher)

    def all(self, board: Board) -> None:
        """The pending jobs, and once more those that were lost with the launcher or its workers."""
        pending = [each for each in board.jobs if each.pending]
        for launch in range(1, LAUNCHES + 1):
            if not pending:
                return
            how = way(self.config, len(pending))
            board.tells = how.elsewhere
            size = how.at_once or len(pending)
            for start in range(0, len(pending), size):
                self._launch(board, pending[start : start + size], launch, how)
            pending = [each for each in pending if each.state in LEFT]
            for each in pending:
                each.resume = each.resume or (each.folder / "checkpoints" / "last.pt").exists()

    def _launch(self, board: Board, jobs: Sequence[GridJob], launch: int, how: Way) -> None:
        for each in jobs:
            _place(each, launch)
        keys = swept(board.jobs)
        told = {str(each.own): Order(each.number, label(each, keys), each.folder if each.resume else None) for each in jobs}
        orders = Orders(board.sweep, len(board.jobs), how.together, told, self.imports, overlap=self._overlap(how))
        orders.announce()
        board.expect(jobs)
        overrides = [[*each.launched, *_in(board.sweep, each.own)] for each in jobs]
        results: Sequence[Any] = ()
        launcher = Plugins.instance().instantiate_launcher(self.context, self.job, self.config)
        try:
            with _interruptible(board), desk() if how.workers else nullcontext() as place:
                self.job.orders = replace(orders, desk=place)
                results = launcher.launch(overrides, initial_job_idx=jobs[0].number)
        except Exception as error:  # joblib's, submitit's, Ray's, each with kinds of its own
            board.look()
            if launch == 1 and all(each.state == QUEUED for each in board.jobs if each.number in board.before):
                _leave_nothing(board.sweep, self.job.existing)
                raise UserError(f"hydra.launcher: {first_line(error)}") from error
            print(f"the launcher has lost jobs: {first_line(error)}", file=sys.stderr)
        with _interruptible(board):
            self.job.overlap.end()
            _await(jobs)
        board.look()
        if self.config.skip_finished:
            self._pass_over([each for each in jobs if each.state == QUEUED and not each.resume])
        for each, result in zip(jobs, results, strict=False):
            if each.state == QUEUED and isinstance(result._return_value, Exception):
                each.state, each.reason = "failed", first_line(result._return_value)
        for each in jobs:
            if launch == LAUNCHES and each.state == QUEUED:
                each.state, each.reason = "failed", "its process has left nothing; the launcher's own log may say why"

    def _pass_over(self, jobs: Sequence[GridJob]) -> None:
        """Of those that have not begun, what a sweep beside this one had in hand; what that left unfinished is launched again."""
        for each in jobs:
            if (other := claimed(Path(self.config.runs_dir), each.job)) is not None and other.folder != each.own:
                self.job.clean(each.own, self.config.hydra)
                compare(each, [other])

    def _overlap(self, how: Way) -> bool:
        """Where the launcher calls one job after the other in this process, a core is free, and nobody asks what came of each."""
        return not how.elsewhere and cores() > 1 and not self.config.hydra.callbacks


def _place(job: GridJob, launch: int) -> None:
    """Its folder: where an earlier run has it, one beside that; launched again it keeps what it has."""
    if launch == 1 and not (job.resume and job.folder == job.own):
        job.own = free(job.own)
    if not job.resume:
        job.folder = job.own


def _in(sweep: Path, folder: Path) -> list[str]:
    """The overrides by which a job gets its folder, whatever number its launcher gives it."""
    places = {"dir": str(sweep), "subdir": os.path.relpath(folder, sweep)}
    return [f"hydra.sweep.{key}={QuotedString(place, Quote.single).with_quotes()}" for key, place in places.items()]


def _await(jobs: Sequence[GridJob]) -> None:
    """Waits for jobs that run although their launcher has given up on them."""
    while any(held(each.folder) or alive(each.folder, read_status(each.folder)) for each in jobs if each.state in LEFT):
        time.sleep(0.5)


def _settle(board: Board, code: int) -> None:
    """Writes down the end of the jobs whose processes are gone without a word."""
    for each in board.jobs:
        status = read_status(each.folder) if each.number in board.before else None
        if status is not None and status["state"] == "running" and not alive(each.folder, status):
            apart(settle, Work(each.folder, {}, {}), code, log=each.folder / "run.log")


@contextmanager
def _interruptible(board: Board) -> Iterator[None]:
    """Inside, Ctrl-C lets no further job begin and interrupts those that run, before it gets to the launcher."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: Any = signal.getsignal(signal.SIGINT)

    def interrupt(*_: Any) -> None:
        signal.signal(signal.SIGINT, before)
        stop(board.sweep)
        running = [each.folder for each in board.jobs if each.number in board.before]
        for status in filter(None, map(_here, running)):
            os.kill(status["pid"], signal.SIGINT)
        end = time.monotonic() + PATIENCE
        while any(map(_here, running)) and time.monotonic() < end:
            time.sleep(0.1)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _here(folder: Path) -> dict[str, Any] | None:
    """The status of a run that a process of this machine trains."""
    status = read_status(folder)
    return status if status and status.get("host") == socket.gethostname() and alive(folder, status) else None


def _leave_nothing(sweep: Path, existing: frozenset[Path]) -> None:
    if sweep not in existing:
        shutil.rmtree(sweep)
        for path in sweep.parents:
            if path in existing or any(path.iterdir()):
                return
            path.rmdir()


def _with_skipping(arguments: Sequence[str]) -> list[str]:
    kept = [each for each in arguments if not each.startswith("skip_finished=")]
    return [*kept, "skip_finished=true"]
