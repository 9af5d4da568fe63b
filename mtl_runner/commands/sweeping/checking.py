"""The jobs of a grid, checked before any starts."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.hydra import Hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, open_dict

from mtl_runner.commands.composed import task_config, there
from mtl_runner.commands.safety import check_hydra_node
from mtl_runner.commands.sweeping.composing import Composer
from mtl_runner.commands.sweeping.earlier import skip_finished
from mtl_runner.commands.sweeping.grid import NOT_APPLICABLE, GridJob, alone, combinations, run_once
from mtl_runner.config import problems
from mtl_runner.config.schema import plain
from mtl_runner.errors import NotApplicable, UserError


class Grid:
    """The jobs of a sweep, checked one after the other.

    Args:
        hydra: as it is inside ``checked``.
        master: the configuration without swept values.
        allowed: modules that the user allowed.
        typed: the overrides on the command line.
    """

    def __init__(self, hydra: Hydra, master: DictConfig, allowed: Sequence[str], typed: Sequence[str]) -> None:
        self.master, self.allowed, self.typed = master, allowed, typed
        self.sweep = str(master.hydra.sweep.dir)  # its time of day is that of all jobs from here on
        self.compose = Composer(hydra, master)
        self.combinations = combinations(master, OverridesParser.create(config_loader=hydra.config_loader))
        self.jobs: list[GridJob] = []
        self.existing: set[Path] = set()
        self.tracked: list[DictConfig] = []
        """One for each tracker and experiment."""
        self._known: list[tuple[str, Any]] = []

    def check(self) -> None:
        """Fills ``jobs``, and raises an error with all that is wrong, or where none of them is applicable."""
        most = self.master.hydra.sweeper.max_batch_size
        if most is not None and most < 1:
            raise UserError(f"hydra.sweeper.max_batch_size={most}: a number from 1 on is expected, or null")
        wrong: dict[str, None] = {}
        for number, overrides in enumerate(self.combinations):
            wrong.update(dict.fromkeys(self._add(number, overrides)))
        if wrong:
            raise UserError("\n".join(wrong))
        if not any(job.pending for job in self.jobs):
            raise UserError("\n".join(dict.fromkeys(job.reason for job in self.jobs)))
        run_once(self.jobs)
        if self.master.skip_finished:
            skip_finished(self.jobs, [Path(self.master.runs_dir), Path(self.sweep)])
        self._check_folders()

    def _check_folders(self) -> None:
        taken: dict[Path, int] = {}
        for job in self.jobs:
            if job.pending and (other := taken.setdefault(job.own, job.number)) != job.number:
                subdir = os.path.relpath(job.own, self.sweep)
                raise UserError(f"hydra.sweep.subdir={subdir}: jobs {other} and {job.number} would write to this one folder")

    def _add(self, number: int, overrides: list[str]) -> list[str]:
        """Notes a job down; what is wrong with it."""
        from mtl_runner.build import check_combination, job_hash, uncoupled

        config, launched = self._config(number, overrides), overrides
        if lines := problems(task := task_config(config), self.allowed):
            return lines
        node = plain(task)
        if uncoupled(node) and (other := self._alone(number, overrides)) is not None:
            launched, config = alone(overrides), other
            node = plain(task_config(config))
        folder = Path(os.path.abspath(os.path.join(config.hydra.sweep.dir, config.hydra.sweep.subdir)))
        job = GridJob(number, overrides, launched, folder, folder, job_hash(node))
        self.jobs.append(job)
        self.existing.update(there(Path(os.path.abspath(config.hydra.sweep.dir))))
        try:
            check_combination(node)
        except NotApplicable as error:
            job.state, job.reason = NOT_APPLICABLE, str(error)
            return []
        except UserError as error:
            return str(error).splitlines()
        if (tracking := (node["name"], node["tracker"])) not in self._known:
            self._known.append(tracking)
            self.tracked.append(config)
        return []

    def _config(self, number: int, overrides: Sequence[str]) -> DictConfig:
        config = self.compose(overrides)
        with open_dict(config):
            config.hydra.job.id, config.hydra.job.num = str(number), number
        check_hydra_node(config.hydra, self.allowed, self.typed)
        return config

    def _alone(self, number: int, overrides: Sequence[str]) -> DictConfig | None:
        """With the weighting of tasks that nothing couples; None where a file gives keys of another one, which then stays."""
        if list(overrides) == alone(overrides):
            return None
        config = self._config(number, alone(overrides))
        return None if problems(task_config(config), self.allowed) else config
