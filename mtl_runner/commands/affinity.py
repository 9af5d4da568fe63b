"""``mtl affinity``: how related the tasks of a configuration are, and which of them should share a network."""

import re
import shlex
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.types import RunMode
from omegaconf import OmegaConf

from mtl_runner.commands import precheck
from mtl_runner.commands.composed import CONFIG_NAME, task_config
from mtl_runner.config.schema import plain
from mtl_runner.errors import UserError, choices, nearest

Line = tuple[Sequence[str], Path | None, str | None]
"""Overrides as for ``mtl-run``, a folder of further configurations, the name of the primary one."""


def affinity(
    line: Line,
    methods: Sequence[str],
    budget: int,
    output: Path | None,
    every: int,
    step_size: float,
) -> None:
    """Measures, writes and shows; a measure that is ready is written before the next one begins.

    Args:
        line: what the configuration is made of.
        methods: names of measures; none: all.
        budget: the largest number of networks.
        output: the folder; otherwise ``affinity/<dataset>``.
        every: steps from one look at the shared network to the next.
        step_size: of the lookahead.
    """
    if wrong := next((name for name in methods if "=" in name), None):
        raise UserError(
            f"-m {wrong}: -m is --method here, and takes the name of a measure; without it: mtl affinity {shlex.quote(wrong)}"
        )
    node, places = _configuration(_arguments(*line))
    from mtl_runner.affinity import MEASURES, measured, show, write
    from mtl_runner.build.words import option

    for name in methods:
        if name not in MEASURES:
            raise UserError(
                f"--method {name}: there is no such measure; choose from {choices(MEASURES)}{nearest(name, MEASURES)}"
            )
    folder = output or Path("affinity", option(node["dataset"]))
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output {folder}: is a file; a folder is expected")
    chosen = {name: measure for name, measure in MEASURES.items() if name in (methods or MEASURES)}
    names = []
    for each in measured(node, chosen, every, step_size):
        groups = write(folder, each, budget)
        show(each, groups)
        names += [each.name] * (groups is not None)
    OmegaConf.save(OmegaConf.create(node), folder / "config.yaml")
    typer.echo(f"tables, pictures and groups: {folder}")
    if names:
        words = _training(line, places, folder, f"sharing=grouped_by_{names[-1]}")
        typer.echo(f"train with one of them: {shlex.join(['mtl-run', *words])}")


def _training(line: Line, places: Sequence[str], folder: Path, option: str) -> list[str]:
    """The arguments of ``mtl-run`` for the same configuration with ``option``, which lies in ``folder``.

    ``--config-dir`` takes one folder. Where it is the user's, ``folder`` follows the ``places`` of ``hydra.searchpath``.
    """
    overrides, config_dir, config_name = line
    listed = ",".join(_quoted(place) for place in (*places, f"file://{folder}"))
    path = [f"hydra.searchpath=[{listed}]"] if config_dir else []
    new = {"sharing", *(["hydra.searchpath"] if path else [])}
    kept = [each for each in overrides if each.lstrip("+~").partition("=")[0].partition("@")[0] not in new]
    kept = [each for each in kept if not each.lstrip("+~").startswith("sharing.")]  # keys of another option
    flags = ["--config-dir", str(config_dir or folder), *(["--config-name", config_name] if config_name else [])]
    return [*flags, *path, option, *kept]


def _quoted(place: str) -> str:
    """As an element of one of Hydra's lists."""
    return place if re.fullmatch(r"[\w./:-]+", place, re.ASCII) else QuotedString(place, Quote.double).with_quotes()


def _arguments(overrides: Sequence[str], config_dir: Path | None, config_name: str | None) -> Namespace:
    """As Hydra reads them for ``mtl-run``."""
    args = get_args_parser().parse_args([])
    args.overrides, args.config_name = list(overrides), config_name
    args.config_dir = None if config_dir is None else str(config_dir)
    return args


def _configuration(args: Namespace) -> tuple[dict[str, Any], list[str]]:
    """What one run would get, checked; and the places that it adds to Hydra's search path."""
    with precheck.checked(args, runs=True) as (hydra, found):
        if found.master is not None:
            raise UserError("mtl affinity looks at one configuration, and this one is a sweep")
        config = hydra.compose_config(args.config_name or CONFIG_NAME, args.overrides, run_mode=RunMode.RUN)
        return plain(task_config(config)), list(config.hydra.searchpath)
