"""One run: data, model, training, test; everything into its folder."""

import importlib.metadata
import os
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from mtl_runner import checkpoint, label_table, labels, outcome
from mtl_runner.batch import Data
from mtl_runner.build import job_hash
from mtl_runner.config.schema import plain
from mtl_runner.console import Display, log, logging_to, print_tree
from mtl_runner.errors import UserError
from mtl_runner.folder import Origin, RunFolder, now, write_text
from mtl_runner.parts import Node, Parts, make
from mtl_runner.tracking.base import State, Tracker

Watch = Callable[[int, Mapping[str, float]], None]
"""Told of each epoch's metrics once they are written down; it may raise ``Pruned``."""


class Pruned(Exception):
    """A search sees no promise in this run: it ends here, without a look at the test part."""


def run(
    config: DictConfig,
    path: Path,
    origin: Origin,
    watch: Watch | None = None,
    test: bool = True,
    trained: Callable[[], None] | None = None,
) -> float:
    """Train what ``config`` describes, into the folder ``path``; returns the validation average of the restored weights.

    Without ``test`` the test part is left alone: a search chooses by validation, and ``validation_metrics.json`` is all there is
    at the end. ``trained`` is called when training is over: what is left is one look at the test part, pictures, the model's
    package and the tracker.

    Raises:
        UserError: the configuration or the data cannot be used; nothing but the log is in the folder then.
        Pruned: ``watch`` has ended it.
    """
    node = plain(config)
    folder = RunFolder(path)
    with logging_to(path / "run.log"):
        if node["print_config"]:
            print_tree(node)
        parts = make(node)
        write_text(path / "config.yaml", OmegaConf.to_yaml(node))
        folder.write_data(parts.data)
        _show_labels(folder, parts.data)
        folder.status(
            state="running", started=now(), ended=None, epoch=0, error=None, name=node["name"], **asdict(origin),
            commit=_commit(), version=_version(), parameters=parts.model.sizes()["total"], **_process(),
        )  # fmt: skip
        checkpoint.save(parts.training.state_dict(), folder.last)
        return _train(node, folder, parts, watch, test, trained)


def resume(
    path: Path,
    epochs: int | None = None,
    steps: int | None = None,
    allowed: Sequence[str] = (),
    trained: Callable[[], None] | None = None,
) -> float:
    """Go on with the run in ``path``, with a larger budget if one is given; returns as ``run`` does.

    On the CPU it ends with the same weights, bit for bit, as a run that was never interrupted. ``allowed`` are modules of
    one's own that its configuration may name.
    """
    folder = RunFolder(path)
    status = folder.read_json("status.json")
    node = folder.read_config(allowed)
    larger = _enlarge(node["trainer"], epochs, steps)
    if status["state"] == "finished" and not larger:
        raise UserError(f"resume={path}: this run is finished; a larger trainer.epochs or trainer.steps makes it go on")
    with logging_to(path / "run.log"):
        parts = make(node, folder)
        if larger and parts.training.in_second_phase:
            raise UserError(f"resume={path}: this run is in its second phase, and the budget is that of the first")
        if status["state"] == "finished" and parts.training.stopped_early:
            raise UserError(f"resume={path}: this run stopped early; a larger budget changes nothing")
        folder.cut_metrics(parts.training.number)
        _show_labels(folder, parts.data)
        write_text(path / "config.yaml", OmegaConf.to_yaml(node))
        if larger and status.get("job"):
            folder.status(job=job_hash(node))  # it is another one now
        folder.status(state="running", ended=None, error=None, epoch=parts.training.number, **_process())
        log.info("resuming after epoch %d", parts.training.number)
        return _train(node, folder, parts, trained=trained)


def _train(
    node: Node,
    folder: RunFolder,
    parts: Parts,
    watch: Watch | None = None,
    test: bool = True,
    trained: Callable[[], None] | None = None,
) -> float:
    tracker, training = parts.tracker, parts.training
    tracker.start(folder.path)
    with _ending(folder, tracker):
        wanted = node["trainer"]["progress"]
        with Display(training.epochs, training.steps_per_epoch(), wanted) as display:
            for epoch in training.fit(display.step):
                line = folder.append_metrics(epoch.number, epoch.step, epoch.metrics, epoch.seconds)
                checkpoint.save(training.state_dict(), folder.last)
                folder.status(epoch=epoch.number)
                tracker.log_metrics(line)
                display.epoch(epoch.number, epoch.metrics)
                if epoch.number == 1:
                    outcome.say_undefined(epoch.undefined, parts.data, "validation")
                if watch is not None:
                    watch(epoch.number, epoch.metrics)
        return outcome.finish(folder, parts, trained) if test else outcome.validated(folder, parts)


def _show_labels(folder: RunFolder, data: Data) -> None:
    """How imbalanced the tasks are, before they are trained."""
    profiles = labels.profile(data)
    write_text(folder.path / "labels.csv", label_table.as_csv(profiles))
    label_table.print_labels(profiles)


@contextmanager
def _ending(folder: RunFolder, tracker: Tracker) -> Iterator[None]:
    """However the run ends, its folder and its tracker are told."""
    state: State = "failed"
    error = None
    try:
        yield
        state = "finished"
    except KeyboardInterrupt:
        state = "interrupted"
        raise
    except Pruned:
        state = "pruned"
        raise
    except Exception as problem:
        error = f"{type(problem).__name__}: {problem}"
        raise
    finally:
        folder.status(state=state, ended=now(), error=error, train_seconds=folder.train_seconds())
        tracker.finish(state)


def _enlarge(trainer: Node, epochs: int | None, steps: int | None) -> bool:
    """Put a larger budget in place of the run's own; whether there is one."""
    before = dict(trainer)
    budget = "epochs" if trainer["steps"] is None else "steps"  # where both are given, the steps count
    for key, value in (("epochs", epochs), ("steps", steps)):
        if value is None:
            continue
        if key != budget or value < trainer[key]:
            raise UserError(
                f"trainer.{key}={value}: a run is resumed with its own budget or a larger one; it has {budget}: {trainer[budget]}"
            )
        trainer[key] = value
    return trainer != before


def _process() -> Node:
    """Who trains: whether a run that says it is running still does so can be asked of the machine."""
    return {"host": socket.gethostname(), "pid": os.getpid()}


def _version() -> str | None:
    """The package's; None of a checkout that was not installed."""
    try:
        return importlib.metadata.version("mtl-runner")
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The git commit of the package's repository, with ``+`` where files differ from it; None where none has the package."""
    here = Path(__file__).resolve()
    # a repository's settings run no program
    git = ["git", "-C", str(here.parent), "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null"]
    try:
        # the second name fails where a repository merely lies around the package, as around an environment
        found = subprocess.run(
            [*git, "rev-parse", "HEAD", f"HEAD:./{here.name}"], capture_output=True, text=True, timeout=2, check=True
        ).stdout.split()
        changed = subprocess.run(
            [*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, timeout=2
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return found[0] + ("+" if changed else "")
