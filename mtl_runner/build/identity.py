"""What makes two runs the same run."""

import hashlib
import json
from typing import Any

from omegaconf import DictConfig

from mtl_runner.build.optimizing import torchs
from mtl_runner.build.words import Node
from mtl_runner.config import WITHOUT_EFFECT, plug
from mtl_runner.config.schema import plain
from mtl_runner.imbalance.base import Criterion
from mtl_runner.sharing.base import Sharing

__all__ = ["WITHOUT_EFFECT", "job_hash", "paced", "uncoupled"]


def uncoupled(config: DictConfig | Node) -> bool:
    """Whether each task trains alone, so that there is nothing to weigh; ``config`` has passed ``config.check``."""
    values = plain(config)
    sharing: type[Sharing] = plug(values["sharing"], "sharing", values["allow_modules"]).func  # type: ignore[assignment]
    return sharing.independent


def paced(config: Node) -> bool:
    """Whether what an epoch does depends on the budget: its schedule is given one, or a strategy looks at it before each epoch.

    A run that went on with a larger one is not the same then as a run that had it from the start.
    """
    modules = config.get("allow_modules") or []
    scheduler, strategies = config.get("scheduler"), (config.get("imbalance") or {}).values()
    if scheduler and not torchs(plug(scheduler, "scheduler", modules).func):
        return True
    hooks = (getattr(plug(each, "imbalance", modules).func, "before_epoch", None) for each in strategies)
    return any(hook not in (None, Criterion.before_epoch) for hook in hooks)


def job_hash(config: DictConfig | Node) -> str:
    """16 hexadecimal digits that two configurations have in common if, and only if, their runs give the same figures.

    SHA-256 of the resolved configuration as JSON with sorted keys, without what has no effect: the keys above, and the weighting
    where nothing couples the tasks. ``config`` has passed ``config.check``.
    """
    values = {key: value for key, value in plain(config).items() if key not in WITHOUT_EFFECT}
    values["trainer"] = {key: value for key, value in values["trainer"].items() if f"trainer.{key}" not in WITHOUT_EFFECT}
    if uncoupled(config):
        del values["weighting"]
    return hashlib.sha256(_canonical(values).encode()).hexdigest()[:16]


def _canonical(values: dict[str, Any]) -> str:
    return json.dumps(values, sort_keys=True, separators=(",", ":"))
