"""What the messages about options have in common."""

from collections.abc import Mapping
from typing import Any

from mtl_runner.config import plug
from mtl_runner.weighting.base import Weighting

Node = Mapping[str, Any]


def option(node: Node) -> str:
    """The name of a plug-in as users know it: that of its module."""
    return str(node["_target_"]).split(".")[-2]


def of_gradients(config: Node) -> bool:
    """Whether the weighting looks at the tasks' gradients of what they share."""
    weighting: type[Weighting] = plug(config["weighting"], "weighting", config["allow_modules"]).func  # type: ignore[assignment]
    return weighting.needs in ("gramian", "jacobian")


def nothing_shared(config: Node, reason: str) -> str:
    weighting = option(config["weighting"])
    return (
        f"weighting={weighting} compares the tasks' gradients of the parameters that they share, and {reason}; "
        "sharing=hard has them, and weightings of the losses (equal, dynamic, uncertainty, …) need none"
    )
