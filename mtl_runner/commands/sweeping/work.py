"""What happens in the process of its own that a job of a sweep has, and after it."""

import signal
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from mtl_runner.commands.lock import Busy, only_here, read_status
from mtl_runner.commands.sweeping.claims import claim
from mtl_runner.commands.sweeping.earlier import Earlier, shown
from mtl_runner.config import check
from mtl_runner.errors import NotApplicable, UserError

if TYPE_CHECKING:
    from mtl_runner.folder import Origin
    from mtl_runner.tracking.base import State


@dataclass(frozen=True)
class Work:
    """One job, all of it plain data: the process that hands it on imports no torch for it."""

    folder: Path
    node: Mapping[str, Any]
    """The resolved configuration."""
    origin: Mapping[str, Any]
    """The fields of ``folder.Origin``, without the job's hash."""
    allowed: Sequence[str] = ()
    resume: bool = False
    """Whether to go on with what is in the folder."""


def train(work: Work, trained: Callable[[], None] | None = None) -> None:
    """Trains, and writes down what was wrong where it cannot. Does nothing where the work is done, or being done, already:
    with ``skip_finished`` also where another sweep has begun it in a folder of its own since this one looked.

    ``trained`` is called as ``run`` does.
    """
    try:
        with only_here(work.folder):
            begun = read_status(work.folder)
            if begun is None if not work.resume else begun is not None and begun.get("state") != "finished":
                if (other := _kept(work)) is None:
                    _train(work, trained)
                else:
                    print(f"not run: another sweep has this job: {shown(other.folder)}", flush=True)
    except Busy:
        return


def settle(work: Work, code: int) -> None:
    """Writes down, and tells the tracker, how a job ended whose process could not do so; ``code``: that of its end."""
    from mtl_runner.folder import RunFolder

    folder, known = RunFolder(work.folder), read_status(work.folder)
    if (known is None and code == 130) or (known is not None and known["state"] not in ("running", "killed")):
        return  # it never began, or did so
    if code == 130:
        _end(work, "interrupted", None)
    elif code < 0:
        _end(work, "killed", f"killed by {signal.Signals(-code).name}")
    else:
        _end(work, "failed", f"its process ended with code {code}; see run.log")
    if (work.folder / "tracker.json").exists():
        from mtl_runner.tracking import sync

        folder.status(train_seconds=folder.train_seconds())
        sync(work.folder)


def _kept(work: Work) -> Earlier | None:
    """The run of another sweep that has the job."""
    from mtl_runner.build import job_hash

    return claim(Path(work.node["runs_dir"]), job_hash(work.node), work.folder, bool(work.node["skip_finished"]))


def _train(work: Work, trained: Callable[[], None] | None) -> None:
    from mtl_runner import run
    from mtl_runner.folder import write_text

    try:
        check(work.node, work.allowed)
        if work.resume:
            run.resume(work.folder, allowed=work.allowed, trained=trained)
        else:
            run.run(OmegaConf.create(dict(work.node)), work.folder, _identified(work), trained=trained)
    except NotApplicable as error:
        _end(work, "not_applicable", str(error))
    except UserError as error:
        _end(work, "failed", str(error))
    except Exception as error:  # noqa: BLE001 - what is wrong with one job is written down, and is none of the others'
        write_text(work.folder / "traceback.txt", traceback.format_exc())
        _end(work, "failed", f"{type(error).__name__}: {error}")


def _identified(work: Work) -> "Origin":
    from mtl_runner.build import job_hash
    from mtl_runner.folder import Origin

    return Origin(**work.origin, job=job_hash(work.node))


def _end(work: Work, state: "State", error: str | None) -> None:
    """The last state; of a job that never came to training, the first one too."""
    from mtl_runner.folder import RunFolder, now

    folder = RunFolder(work.folder)
    if read_status(work.folder) is None:
        folder.status(started=now(), epoch=0, name=work.node["name"], **asdict(_identified(work)))
    folder.status(state=state, ended=now(), error=error)
