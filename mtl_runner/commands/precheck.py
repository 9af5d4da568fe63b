"""Composes and checks the configuration of every job before any starts: an error leaves nothing behind."""

import os
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_automatic_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from mtl_runner.commands.allowed import allowed_modules
from mtl_runner.commands.apart import warm_up
from mtl_runner.commands.composing import Composer
from mtl_runner.commands.earlier import skip_finished
from mtl_runner.commands.grid import NOT_APPLICABLE, GridJob, alone, combinations, is_grid, run_once
from mtl_runner.commands.messages import explained
from mtl_runner.commands.safety import check_hydra_node, check_searchpath
from mtl_runner.config import config_dir, plug, problems
from mtl_runner.config.plugs import GROUPS
from mtl_runner.config.schema import plain
from mtl_runner.errors import NotApplicable, UserError

CONFIG_NAME = "config"
MODULE = "mtl_runner.commands.job"
"""Of the task function; a relative ``--config-path`` counts from there, as it does in Hydra."""


@dataclass(frozen=True)
class Checked:
    """What the check of a command line has found."""

    existing: frozenset[Path] = frozenset()
    """The folders that jobs may get to write to and that exist already."""
    master: DictConfig | None = None
    """Of a sweep: the configuration without swept values."""
    jobs: Sequence[GridJob] | None = None
    """Of a sweep whose jobs are known beforehand."""
    imports: Sequence[str] = ()
    """Modules that take long to import, and that every job will."""


@contextmanager
def checked(args: Namespace, runs: bool) -> Iterator[tuple[Hydra, Checked]]:
    """Raises an error where the command line ``args`` does not make a valid configuration.

    Where it trains something (``runs``), every job's keys, types and classes are checked as well, and the tracker is prepared
    for jobs that start at the same time. Inside, Hydra is set up as it was for that.
    """
    with _hydra(args) as hydra:
        yield hydra, _check(hydra, args, runs)


def _check(hydra: Hydra, args: Namespace, runs: bool) -> Checked:
    with explained(args):
        check_searchpath(_searchpath(hydra, args.config_name or CONFIG_NAME), args.overrides)
        master, mode = _compose(hydra, args, runs)
        allowed = allowed_modules(args.overrides)
        check_hydra_node(master.hydra, allowed, args.overrides)
    if not runs:
        return Checked()
    swept = mode == RunMode.MULTIRUN
    if not swept or not is_grid(master):  # the configuration without the swept values stands for what a sweeper will make
        if wrong := _problems(master, allowed):
            raise UserError("\n".join(wrong))
        if swept:
            _prepare_tracking([master], allowed)
        with explained(args):
            return Checked(frozenset(_existing(master, "sweep" if swept else "run")), master if swept else None)
    imports = _imports(master, allowed)
    warm_up(imports)
    with explained(args):
        grid = Grid(hydra, master, allowed, args.overrides)
        grid.check()
    _prepare_tracking(grid.tracked, allowed)
    return Checked(frozenset(grid.existing), master, grid.jobs, imports)


def _imports(config: DictConfig, allowed: Sequence[str]) -> Sequence[str]:
    """What the tracker will have to import; nothing where it cannot be made, which is said in its place."""
    try:
        return plug(_tracking(config)[1], "tracker", allowed).func.imports  # type: ignore[attr-defined, no-any-return]
    except UserError:
        return ()


@contextmanager
def _hydra(args: Namespace) -> Iterator[Hydra]:
    """A Hydra that sees what the real one will see."""
    search_path = create_automatic_config_search_path(None, MODULE, args.config_path or str(config_dir()))
    if args.config_dir is not None:
        folder = os.path.abspath(args.config_dir)
        if not os.path.isdir(folder):
            raise UserError(f"--config-dir {args.config_dir}: there is no such folder")
        search_path.prepend("command-line", f"file://{folder}", SearchPathQuery(provider="schema"))
    try:
        yield Hydra.create_main_hydra2(task_name="mtl-run", config_search_path=search_path)
    finally:
        GlobalHydra.instance().clear()


def _searchpath(hydra: Hydra, config_name: str) -> Any:
    """What the primary configuration adds to the search path; Hydra lets no other file do so."""
    primary = hydra.config_loader.repository.load_config(config_name)  # type: ignore[attr-defined]
    return OmegaConf.select(primary.config, "hydra.searchpath") if primary is not None else None


def _compose(hydra: Hydra, args: Namespace, runs: bool) -> tuple[DictConfig, RunMode]:
    """The configuration without swept values, and whether this is a sweep; ``hydra.mode`` in a file makes it one too."""
    name, overrides = args.config_name or CONFIG_NAME, list(args.overrides)
    config = hydra.compose_config(name, overrides, run_mode=RunMode.MULTIRUN, validate_sweep_overrides=False)
    mode = RunMode.MULTIRUN if args.multirun else (runs and config.hydra.mode) or RunMode.RUN
    parsed = OverridesParser.create().parse_overrides(overrides)
    _check_one_option(parsed)
    if mode == RunMode.MULTIRUN and config.hydra.mode != mode:  # as Hydra does, so that the jobs know of it
        config.hydra.mode = mode
        config.hydra.overrides.hydra.append(f"hydra.mode={mode.name}")
    hydra.config_loader.validate_sweep_overrides_legal(parsed, mode, from_shell=True)  # type: ignore[attr-defined]
    return config, mode


def _check_one_option(overrides: Sequence[Override]) -> None:
    """Hydra would merge the options of a list into one, which is neither of them."""
    for each in overrides:
        kind = GROUPS.get(each.key_or_group)
        if kind is not None and not kind.several and isinstance(each.value(), list):
            raise UserError(f"{each.input_line}: one option is expected; a sweep is written -m {each.key_or_group}=…,…")


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

    def _add(self, number: int, overrides: list[str]) -> list[str]:
        """Notes a job down; what is wrong with it."""
        from mtl_runner.build import check_combination, job_hash, uncoupled

        config, launched = self._config(number, overrides), overrides
        if lines := problems(task := _task_config(config), self.allowed):
            return lines
        node = plain(task)
        if uncoupled(node) and (other := self._alone(number, overrides)) is not None:
            launched, config = alone(overrides), other
            node = plain(_task_config(config))
        folder = Path(os.path.abspath(os.path.join(config.hydra.sweep.dir, config.hydra.sweep.subdir)))
        job = GridJob(number, overrides, launched, folder, folder, job_hash(node))
        self.jobs.append(job)
        self.existing.update(_there(Path(os.path.abspath(config.hydra.sweep.dir))))
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
        return None if problems(_task_config(config), self.allowed) else config


def _problems(config: DictConfig, allowed: Sequence[str]) -> list[str]:
    task = _task_config(config)
    if lines := problems(task, allowed):
        return lines
    from mtl_runner.build import check_combination

    try:
        check_combination(task)
    except UserError as error:
        return str(error).splitlines()
    return []


def _task_config(config: DictConfig) -> DictConfig:
    """What the job will get: everything but Hydra's own node, which interpolations may still read."""
    HydraConfig.instance().set_config(config)
    return OmegaConf.masked_copy(config, [key for key in map(str, config) if key != "hydra"])


def _tracking(config: DictConfig) -> tuple[str, Any]:
    """The experiment's name, and the node of the tracker."""
    task = _task_config(config)
    return task.name, OmegaConf.to_container(task.tracker, resolve=True)


def _prepare_tracking(configurations: Sequence[DictConfig], allowed: Sequence[str]) -> None:
    """Creates the tracking database and experiment once, before jobs could do so at the same time."""
    asked: list[tuple[str, Any]] = []
    for each in map(_tracking, configurations):
        if each not in asked:
            asked.append(each)
    for name, node in asked:
        plug(node, "tracker", allowed)().prepare(name)


def _existing(config: DictConfig, kind: str) -> Iterator[Path]:
    """What is there already of the folder for a run or a sweep, of the folders above it, and of what it holds."""
    HydraConfig.instance().set_config(config)
    yield from _there(
        Path(os.path.abspath(config.hydra[kind].dir))
    )  # as Hydra does; its clock is not ours, but this is for old folders


def _there(folder: Path) -> Iterator[Path]:
    yield from (path for path in (folder, *folder.parents) if path.exists())
    if folder.is_dir():
        yield from folder.iterdir()
