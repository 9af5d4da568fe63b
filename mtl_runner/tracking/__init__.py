"""Telling MLflow about runs. The run folder holds everything without it."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from mtl_runner.tracking.base import Line, State, Tracker
from mtl_runner.tracking.folders import locate, sync

__all__ = ["Line", "State", "Tracker", "locate", "prepare", "sync"]


def prepare(config: Mapping[str, Any]) -> None:
    """Has the tracker of a checked configuration create what parallel runs need; once, before they start."""
    node = {str(key): value for key, value in config["tracker"].items()}
    module, _, name = node.pop("_target_").rpartition(".")
    tracker: Tracker = getattr(import_module(module), name)(**node)
    tracker.prepare(config["name"])
