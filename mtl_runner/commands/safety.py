"""What Hydra itself would import and call from its own part of the configuration.

Hydra instantiates ``hydra.callbacks``, the launcher and the sweeper, and configures logging, all from files that may be a
stranger's (``--config-dir``). Only classes of Hydra, of its plug-ins and of ``logging`` are let through; more only by the
user's word on the command line (``allow_modules=[…]``).
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mtl_runner.config.classes import locate
from mtl_runner.errors import UserError

TRUSTED = ("hydra", "hydra_plugins", "logging")
STREAMS = ("ext://sys.stdout", "ext://sys.stderr")
CALLED = ("callbacks", "launcher", "sweeper")
CONFIGURED = ("hydra_logging", "job_logging")
FACTORIES = ("()", "class", "queue", "listener")


def check_hydra_node(node: Any, allowed: Iterable[str] = ()) -> None:
    """Raises ``UserError`` where Hydra's configuration names anything but trusted classes."""
    trusted = (*TRUSTED, *allowed)
    for part in (*CALLED, *CONFIGURED):
        for key, value in _texts(OmegaConf.select(node, part), f"hydra.{part}"):
            name = key.rpartition(".")[2]
            if name == "_target_" or (part in CONFIGURED and name in FACTORIES):
                _require_class(key, value, trusted)
            elif part in CONFIGURED and "://" in value and value not in STREAMS and name != "format":
                raise UserError(f"{key}={value}: only {' and '.join(STREAMS)} may be named here")


def check_searchpath(searchpath: Any, typed: Sequence[str]) -> None:
    """Raises ``UserError`` where a file adds a Python package to the search path: looking there would import it."""
    for place in searchpath or []:
        if str(place).startswith("pkg://") and not any(str(place) in override for override in typed):
            raise UserError(f"hydra.searchpath: {place} would import a Python package; a file may name file:// folders only")


def _texts(node: Any, key: str) -> Iterator[tuple[str, str]]:
    """Every text inside ``node`` with its key, interpolations resolved."""
    if isinstance(node, str):
        yield key, node
    elif isinstance(node, DictConfig):
        for name in node:
            yield from _texts(_value(node, name), f"{key}.{name!s}")
    elif isinstance(node, ListConfig):
        for index in range(len(node)):
            yield from _texts(_value(node, index), f"{key}.{index}")


def _value(node: Any, name: Any) -> Any:
    try:
        return node[name]
    except OmegaConfBaseException:  # missing, or interpolated from what is not known before the job: never a class to call
        return OmegaConf.to_container(node, resolve=False)[name]  # type: ignore[index]


def _require_class(key: str, path: str, trusted: Sequence[str]) -> None:
    try:
        locate(path, trusted)
    except UserError as error:
        raise UserError(f"{key}={path}: {error}") from None
