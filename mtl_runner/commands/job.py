"""One job: what Hydra calls with a composed configuration, in this process or in a launcher's worker."""

import json
import math
import shutil
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, read_write

from mtl_runner.commands.allowed import allowed_modules
from mtl_runner.commands.lock import FILE, only_here, read_status
from mtl_runner.commands.sweeping.apart import apart, warm_up
from mtl_runner.commands.sweeping.orders import Orders, threads
from mtl_runner.commands.sweeping.overlap import Overlap
from mtl_runner.commands.sweeping.work import Work, settle, train
from mtl_runner.config import GROUPS, check
from mtl_runner.config.schema import plain
from mtl_runner.errors import UserError

HYDRAS_FILES = ("config.yaml", "hydra.yaml", "overrides.yaml")
PRIMARY = "config"


class Job:
    """Hydra's task function: trains what a configuration describes and returns the objective of a sweep."""

    def __init__(self) -> None:
        self.failure: UserError | None = None
        """What was wrong with a single run: kept instead of raised, as Hydra would print a line of its own."""
        self.interrupted: Path | None = None
        """The run folder in which the user stopped it."""
        self.existing: frozenset[Path] = frozenset()
        """The folders and files that were there before, and stay."""
        self.orders: Orders | None = None
        """What there is to know of the jobs of a grid; None where something else makes the jobs."""
        self.overlap = Overlap()

    def __call__(self, config: DictConfig) -> float:
        hydra = HydraConfig.get()
        folder, swept = Path(hydra.runtime.output_dir), hydra.mode == RunMode.MULTIRUN
        try:
            return _in_sweep(config, hydra, folder, self) if swept else _train(config, hydra, folder)
        except UserError as error:
            self.clean(folder, hydra)
            if not swept:
                self.failure = error
                return float("nan")
            print(f"error: job {hydra.job.num}: {error}", file=sys.stderr)  # now: the end of the sweep may be hours away
            raise
        except KeyboardInterrupt:
            self.interrupted = folder
            self.clean(folder, hydra)
            raise

    def clean(self, folder: Path, hydra: Any) -> None:
        """Leaves nothing of a run that has not begun."""
        _leave_nothing(folder, hydra.output_subdir, self.existing | {Path(hydra.runtime.cwd)})


def say_how_to_go_on(folder: Path) -> None:
    """The one line after Ctrl-C."""
    begun = (folder / "checkpoints" / "last.pt").exists()
    how = f"; go on with: mtl-run resume={folder}" if begun else " before the first checkpoint"
    print(f"interrupted{how}", file=sys.stderr)


def _train(config: DictConfig, hydra: Any, folder: Path) -> float:
    overrides = [str(override) for override in hydra.overrides.task]
    check(config, allowed_modules(overrides))
    from mtl_runner.build import job_hash
    from mtl_runner.folder import Origin
    from mtl_runner.run import run

    origin = Origin(choices_of(config, hydra), overrides, None, _study(hydra), job_hash(config), plain(config)["tuned"])
    with only_here(folder):
        return run(config, folder, origin)


def _in_sweep(config: DictConfig, hydra: Any, folder: Path, job: Job) -> float:
    """Trains in a process of its own, whose end, whatever it is, ends nothing else."""
    order = job.orders.of(folder) if job.orders else None
    if order is not None:
        with read_write(hydra.job):
            hydra.job.num = order.number  # a launcher counts the jobs that it has been given
    if job.orders is not None and not job.orders.count():
        job.clean(folder, hydra)
        return math.nan
    overrides = [str(override) for override in hydra.overrides.task]
    node, resumed = _threaded(config, job.orders), order.resume if order else None
    origin = {
        "choices": choices_of(config, hydra), "overrides": overrides, "sweep": str(hydra.sweep.dir), "study": _study(hydra),
        "tuned": node["tuned"],
    }  # fmt: skip
    work = Work(resumed or folder, node, origin, allowed_modules(overrides), resumed is not None)
    if order is not None and job.orders is not None and job.orders.together == 1:
        print(f"\njob {order.number} of {job.orders.total}: {order.label}", flush=True)
    if job.orders is not None and job.orders.overlap:
        job.overlap.run(work)
    else:
        _alone(work, job.orders)
    if resumed not in (None, folder):
        job.clean(folder, hydra)
    return _objective(work.folder, job.orders is None)


def _alone(work: Work, orders: Orders | None) -> None:
    """Waits for the job's end, and writes down one that its process could not."""
    log = work.folder / "run.log" if orders is not None and orders.together > 1 else None
    call = orders.desk.apart if orders is not None and orders.desk is not None else apart
    if call is apart:
        warm_up(orders.imports if orders else ())
    try:
        code = call(train, work, log=log)
    except KeyboardInterrupt:
        call(settle, work, 130, log=log)
        raise
    if code:
        call(settle, work, code, log=log)


def _threaded(config: DictConfig, orders: Orders | None) -> dict[str, Any]:
    """The resolved configuration, with this job's share of the cores where its number of threads was left open."""
    node = plain(config)
    if orders is not None and node["trainer"]["threads"] is None:
        node["trainer"] = {**node["trainer"], "threads": threads(orders.together)}
    return node


def _objective(folder: Path, asked: bool) -> float:
    """The validation average; where somebody has ``asked`` for it, having none is an error."""
    status = read_status(folder)
    if status is not None and status.get("state") == "finished":
        average = json.loads((folder / "test_metrics.json").read_text(encoding="utf-8"))["validation_average"]
        return math.nan if average is None else float(average)
    if asked:
        raise UserError(str(status.get("error") if status else "it has left nothing"))
    return math.nan


def _study(hydra: Any) -> str | None:
    return None if hydra.job.config_name == PRIMARY else str(hydra.job.config_name)


def choices_of(config: DictConfig, hydra: Any) -> dict[str, str]:
    """The option chosen for each group of ours: ``{"sharing": "hard", "imbalance": "oversample,focal"}``.

    Hydra keeps no choice for a group of which several options were chosen; there each option has a key of its name.
    """
    chosen = {str(group): str(option) for group, option in hydra.runtime.choices.items()}
    several = {name: ",".join(map(str, config[name])) for name, group in GROUPS.items() if group.several and name not in chosen}
    return {group: option for group, option in chosen.items() if not group.startswith("hydra/")} | several


def _leave_nothing(folder: Path, hydra_subdir: str | None, existing: Collection[Path]) -> None:
    """Removes Hydra's own files and the log from a run folder that holds nothing else, and the folders made for them.

    What is among ``existing`` stays.
    """
    hydras = folder / hydra_subdir if hydra_subdir else folder
    ours = {folder / "run.log", folder / FILE, *(hydras / name for name in HYDRAS_FILES if hydra_subdir)}
    if any(path.is_file() and path not in ours for path in folder.rglob("*")):
        return
    for path in ours.difference(existing):
        path.unlink(missing_ok=True)
    if folder not in existing:
        shutil.rmtree(folder)
    for path in (hydras, folder, *folder.parents):
        if path.exists() and path not in existing and not any(path.iterdir()):
            path.rmdir()
