"""One job: what Hydra calls with a composed configuration, in this process or in a launcher's worker."""

import shutil
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from mtl_runner.commands.allowed import allowed_modules
from mtl_runner.config import GROUPS, check
from mtl_runner.errors import UserError

HYDRAS_FILES = ("config.yaml", "hydra.yaml", "overrides.yaml")


class Job:
    """Hydra's task function: trains what a configuration describes and returns the objective of a sweep."""

    def __init__(self) -> None:
        self.failure: UserError | None = None
        """What was wrong with a single run: kept instead of raised, as Hydra would print a line of its own."""
        self.interrupted: Path | None = None
        """The run folder in which the user stopped it."""
        self.existing: frozenset[Path] = frozenset()
        """The folders and files that were there before, and stay."""

    def __call__(self, config: DictConfig) -> float:
        hydra = HydraConfig.get()
        folder, swept = Path(hydra.runtime.output_dir), hydra.mode == RunMode.MULTIRUN
        try:
            return _train(config, hydra, folder, swept)
        except UserError as error:
            _leave_nothing(folder, hydra.output_subdir, self.existing | {Path(hydra.runtime.cwd)})
            if not swept:
                self.failure = error
                return float("nan")
            print(f"error: job {hydra.job.num}: {error}", file=sys.stderr)  # now: the end of the sweep may be hours away
            raise
        except KeyboardInterrupt:
            self.interrupted = folder
            _leave_nothing(folder, hydra.output_subdir, self.existing | {Path(hydra.runtime.cwd)})
            raise


def say_how_to_go_on(folder: Path) -> None:
    """The one line after Ctrl-C."""
    begun = (folder / "checkpoints" / "last.pt").exists()
    how = f"; go on with: mtl-run resume={folder}" if begun else " before the first checkpoint"
    print(f"interrupted{how}", file=sys.stderr)


def _train(config: DictConfig, hydra: Any, folder: Path, swept: bool) -> float:
    overrides = [str(override) for override in hydra.overrides.task]
    check(config, allowed_modules(overrides))
    from mtl_runner.folder import Origin
    from mtl_runner.run import run

    return run(config, folder, Origin(_choices(config, hydra), overrides, str(hydra.sweep.dir) if swept else None))


def _choices(config: DictConfig, hydra: Any) -> dict[str, str]:
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
    ours = {folder / "run.log", *(hydras / name for name in HYDRAS_FILES if hydra_subdir)}
    if any(path.is_file() and path not in ours for path in folder.rglob("*")):
        return
    for path in ours.difference(existing):
        path.unlink(missing_ok=True)
    if folder not in existing:
        shutil.rmtree(folder)
    for path in (hydras, folder, *folder.parents):
        if path.exists() and path not in existing and not any(path.iterdir()):
            path.rmdir()
