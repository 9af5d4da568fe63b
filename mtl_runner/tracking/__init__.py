"""Telling MLflow about runs. The run folder holds everything without it."""

from mtl_runner.tracking.base import Line, State, Tracker
from mtl_runner.tracking.folders import locate, sync

__all__ = ["Line", "State", "Tracker", "locate", "sync"]
