"""A configuration as Hydra composes it, and what is asked of it before a run."""

import os
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_automatic_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from mtl_runner.config import config_dir, plug
from mtl_runner.errors import UserError

CONFIG_NAME = "config"
MODULE = "mtl_runner.commands.job"
"""Of the task function; a relative ``--config-path`` counts from there, as it does in Hydra."""


@contextmanager
def hydra_of(args: Namespace) -> Iterator[Hydra]:
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


def searchpath(hydra: Hydra, config_name: str) -> Any:
    """What the primary configuration adds to the search path; Hydra lets no other file do so."""
    primary = hydra.config_loader.repository.load_config(config_name)  # type: ignore[attr-defined]
    return OmegaConf.select(primary.config, "hydra.searchpath") if primary is not None else None


def task_config(config: DictConfig) -> DictConfig:
    """What the job will get: everything but Hydra's own node, which interpolations may still read."""
    HydraConfig.instance().set_config(config)
    return OmegaConf.masked_copy(config, [key for key in map(str, config) if key != "hydra"])


def tracking(config: DictConfig) -> tuple[str, Any]:
    """The experiment's name, and the node of the tracker."""
    task = task_config(config)
    return task.name, OmegaConf.to_container(task.tracker, resolve=True)


def prepare_tracking(configurations: Sequence[DictConfig], allowed: Sequence[str]) -> None:
    """Creates the tracking database and experiment once, before jobs could do so at the same time."""
    asked: list[tuple[str, Any]] = []
    for each in map(tracking, configurations):
        if each not in asked:
            asked.append(each)
    for name, node in asked:
        plug(node, "tracker", allowed)().prepare(name)


def there(folder: Path) -> Iterator[Path]:
    yield from (path for path in (folder, *folder.parents) if path.exists())
    if folder.is_dir():
        yield from folder.iterdir()
