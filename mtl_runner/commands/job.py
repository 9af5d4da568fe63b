"""One job: what Hydra calls with a composed configuration, in this process or in a launcher's worker."""

import shutil
import sys
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from mtl_runner.commands.allowed import allowed_modules
from mtl_runner.config import GROUPS, check
from mtl_runner.errors import UserError


class Job:
    """Hydra's task function: trains what a configuration describes and returns the objective of a sweep."""

    def __init__(self) -> None:
        self.failure: UserError | None = None
        """What was wrong with a single run: kept instead of raised, as Hydra would print a line of its own."""
        self.interrupted: Path | None = None
        """The run folder in which the user stopped it."""

    def __call__(self, config: DictConfig) -> float:
        hydra = HydraConfig.get()
        folder, swept = Path(hydra.runtime.output_dir), hydra.mode == RunMode.MULTIRUN
        try:
            return _train(config, hydra, folder, swept)
        except UserError as error:
            _leave_nothing(folder, hydra.output_subdir)
            if not swept:
                self.failure = error
                return float("nan")
            print(f"error: job {hydra.job.num}: {error}", file=sys.stderr)  # now: the end of the sweep may be hours away
            raise
        except KeyboardInterrupt:
            self.interrupted = folder
            _leave_nothing(folder, hydra.output_subdir)
            raise


def say_how_to_go_on(folder: Path) -> None:
    """The one line after Ctrl-C."""
    begun = (folder / "checkpoints" / "last.pt").exists()
    how = f"; go on with: mtl-run resume={folder}" if begun else " before the first checkpoint"
    print(f"interrupted{how}", file=sys.stderr)


def _train(config: DictConfig, hydra: Any, folder: Path, swept: bool) -> float:
    overrides = [str(override) for override in hydra.overrides.task]
    check(config, allowed_modules(overrides))
    from mtl_runner.run import run

    return run(config, folder, _choices(config, hydra), overrides, str(hydra.sweep.dir) if swept else None)


def _choices(config: DictConfig, hydra: Any) -> dict[str, str]:
    """The option chosen for each group of ours: ``{"sharing": "hard", "imbalance": "oversample,focal"}``.

    Hydra keeps no choice for a group of which several options were chosen; there each option has a key of its name.
    """
    chosen = {str(group): str(option) for group, option in hydra.runtime.choices.items()}
    several = {name: ",".join(map(str, config[name])) for name, group in GROUPS.items() if group.several and name not in chosen}
    return {group: option for group, option in chosen.items() if not group.startswith("hydra/")} | several


def _leave_nothing(folder: Path, hydra_subdir: str | None) -> None:
    """Removes a run folder that holds nothing but Hydra's own files and the log, and the empty folders above it."""
    own = folder / hydra_subdir if hydra_subdir else None
    files = [path for path in folder.rglob("*") if path.is_file() and path != folder / "run.log"]
    if any(own is None or own not in path.parents for path in files):
        return
    shutil.rmtree(folder)
    for parent in folder.parents:
        if parent == Path.cwd() or any(parent.iterdir()):
            return
        parent.rmdir()
