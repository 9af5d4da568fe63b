"""Composes and checks the configuration of every job before Hydra starts any: an error leaves nothing behind."""

import os
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
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
from mtl_runner.commands.messages import explained
from mtl_runner.commands.safety import check_hydra_node, check_searchpath
from mtl_runner.config import config_dir, plug, problems
from mtl_runner.config.plugs import GROUPS
from mtl_runner.errors import UserError

CONFIG_NAME = "config"
MODULE = "mtl_runner.commands.job"
"""Of the task function; a relative ``--config-path`` counts from there, as it does in Hydra."""


def check(args: Namespace, runs: bool) -> frozenset[Path]:
    """Raises an error where the command line ``args`` does not make a valid configuration.

    Where it trains something (``runs``), every job's keys, types and classes are checked as well, and the tracker is prepared
    for jobs that start at the same time. Returns the folders that jobs may get to write to and that exist already.
    """
    with explained(args), _hydra(args) as hydra:
        check_searchpath(_searchpath(hydra, args.config_name or CONFIG_NAME), args.overrides)
        master, mode = _compose(hydra, args, runs)
        swept = runs and mode == RunMode.MULTIRUN
        configurations = _jobs(hydra, master) if swept else [master]
        allowed = allowed_modules(args.overrides)
        for config in (master, *configurations):
            check_hydra_node(config.hydra, allowed, args.overrides)
    if not runs:
        return frozenset()
    _check_jobs(configurations, allowed)
    if swept:
        _prepare_tracking(configurations, allowed)
    with explained(args):
        return frozenset(path for config in configurations for path in _existing(config, "sweep" if swept else "run"))


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
    hydra.config_loader.validate_sweep_overrides_legal(parsed, mode, from_shell=True)  # type: ignore[attr-defined]
    return config, mode


def _check_one_option(overrides: Sequence[Override]) -> None:
    """Hydra would merge the options of a list into one, which is neither of them."""
    for each in overrides:
        kind = GROUPS.get(each.key_or_group)
        if kind is not None and not kind.several and isinstance(each.value(), list):
            raise UserError(f"{each.input_line}: one option is expected; a sweep is written -m {each.key_or_group}=…,…")


def _jobs(hydra: Hydra, master: DictConfig) -> list[DictConfig]:
    """The configuration of each job of a sweep. Only the basic sweeper says beforehand what it is going to run; for
    another one the configuration without the swept values stands for them all, and each job checks its own."""
    sweeper = master.hydra.sweeper
    if sweeper._target_ != f"{BasicSweeper.__module__}.{BasicSweeper.__qualname__}":
        return [master]
    typed = [f"{key}={value}" for key, value in (sweeper.params or {}).items()] + list(master.hydra.overrides.task)
    parsed = OverridesParser.create(config_loader=hydra.config_loader).parse_overrides(typed)
    batches = BasicSweeper.split_arguments(parsed, sweeper.max_batch_size)
    return [_job(hydra, master, overrides, number) for number, overrides in enumerate(job for batch in batches for job in batch)]


def _job(hydra: Hydra, master: DictConfig, overrides: Sequence[str], number: int) -> DictConfig:
    config: DictConfig = hydra.config_loader.load_sweep_config(master, list(overrides))
    with open_dict(config):
        config.hydra.job.id, config.hydra.job.num = str(number), number
    return config


def _check_jobs(configurations: Sequence[DictConfig], allowed: Sequence[str]) -> None:
    wrong: dict[str, None] = {}
    for config in configurations:
        wrong.update(dict.fromkeys(_job_problems(config, allowed)))
    if wrong:
        raise UserError("\n".join(wrong))


def _job_problems(config: DictConfig, allowed: Sequence[str]) -> list[str]:
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
    task = config.copy()
    with open_dict(task):
        del task["hydra"]
    return task


def _prepare_tracking(configurations: Sequence[DictConfig], allowed: Sequence[str]) -> None:
    """Creates the tracking database and experiment once, before jobs could do so at the same time."""
    asked: list[tuple[str, Any]] = []
    for config in map(_task_config, configurations):
        if (each := (config.name, OmegaConf.to_container(config.tracker, resolve=True))) not in asked:
            asked.append(each)
    for name, node in asked:
        plug(node, "tracker", allowed)().prepare(name)


def _existing(config: DictConfig, kind: str) -> Iterator[Path]:
    """What is there already of the folder for a run or a sweep, of the folders above it, and of what it holds."""
    HydraConfig.instance().set_config(config)
    folder = Path(os.path.abspath(config.hydra[kind].dir))  # as Hydra does; its clock is not ours, but this is for old folders
    yield from (path for path in (folder, *folder.parents) if path.exists())
    if folder.is_dir():
        yield from folder.iterdir()
