"""Composes and checks the configuration of every job before any starts: an error leaves nothing behind."""

import os
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hydra._internal.hydra import Hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig

from mtl_runner.commands.allowed import allowed_modules
from mtl_runner.commands.composed import CONFIG_NAME, hydra_of, prepare_tracking, searchpath, task_config, there, tracking
from mtl_runner.commands.elsewhere import TUNES
from mtl_runner.commands.messages import explained
from mtl_runner.commands.safety import check_hydra_node, check_searchpath
from mtl_runner.commands.sweeping.apart import warm_up
from mtl_runner.commands.sweeping.checking import Grid
from mtl_runner.commands.sweeping.composing import Composer
from mtl_runner.commands.sweeping.grid import GridJob, is_grid
from mtl_runner.commands.sweeping.launchers import check_commands
from mtl_runner.config import plug, problems
from mtl_runner.config.plugs import GROUPS, SEARCH
from mtl_runner.errors import UserError


@dataclass(frozen=True)
class Checked:
    """What the check of a command line has found."""

    existing: frozenset[Path] = frozenset()
    """The folders that jobs may get to write to and that exist already."""
    master: DictConfig | None = None
    """Of a sweep: the configuration without swept values."""
    jobs: Sequence[GridJob] | None = None
    """Of a sweep whose jobs are known beforehand."""
    compose: Composer | None = None
    """What has composed them."""
    imports: Sequence[str] = ()
    """Modules that take long to import, and that every job will."""


@contextmanager
def checked(args: Namespace, runs: bool) -> Iterator[tuple[Hydra, Checked]]:
    """Raises an error where the command line ``args`` does not make a valid configuration.

    Where it trains something (``runs``), every job's keys, types and classes are checked as well, and the tracker is prepared
    for jobs that start at the same time. Inside, Hydra is set up as it was for that.
    """
    with hydra_of(args) as hydra:
        yield hydra, _check(hydra, args, runs)


def _check(hydra: Hydra, args: Namespace, runs: bool) -> Checked:
    with explained(args):
        check_searchpath(searchpath(hydra, args.config_name or CONFIG_NAME), args.overrides)
        master, mode = _compose(hydra, args, runs)
        allowed = allowed_modules(args.overrides)
        check_hydra_node(master.hydra, allowed, args.overrides)
        check_commands(master.hydra.launcher, args.overrides)
    if not runs:
        return Checked()
    if SEARCH in master:
        raise UserError(TUNES)
    swept = mode == RunMode.MULTIRUN
    if not swept or not is_grid(master):  # the configuration without the swept values stands for what a sweeper will make
        if wrong := _problems(master, allowed):
            raise UserError("\n".join(wrong))
        if swept:
            prepare_tracking([master], allowed)
        with explained(args):
            return Checked(frozenset(_existing(master, "sweep" if swept else "run")), master if swept else None)
    imports = _imports(master, allowed)
    warm_up(imports)
    with explained(args):
        grid = Grid(hydra, master, allowed, args.overrides)
        grid.check()
    prepare_tracking(grid.tracked, allowed)
    return Checked(frozenset(grid.existing), master, grid.jobs, grid.compose, imports)


def _imports(config: DictConfig, allowed: Sequence[str]) -> Sequence[str]:
    """What the tracker will have to import; nothing where it cannot be made, which is said in its place."""
    try:
        return plug(tracking(config)[1], "tracker", allowed).func.imports  # type: ignore[attr-defined, no-any-return]
    except UserError:
        return ()


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


def _problems(config: DictConfig, allowed: Sequence[str]) -> list[str]:
    task = task_config(config)
    if lines := problems(task, allowed):
        return lines
    from mtl_runner.build import check_combination

    try:
        check_combination(task)
    except UserError as error:
        return str(error).splitlines()
    return []


def _existing(config: DictConfig, kind: str) -> Iterator[Path]:
    """What is there already of the folder for a run or a sweep, of the folders above it, and of what it holds."""
    HydraConfig.instance().set_config(config)
    yield from there(
        Path(os.path.abspath(config.hydra[kind].dir))
    )  # as Hydra does; its clock is not ours, but this is for old folders
