"""What a metric is, and what all families of metrics share.

All arithmetic is in float64 (or in whole numbers), on the device of the inputs; Apple's MPS has no float64, so that
tensors from there are moved to the CPU and the results stay on it. An example without a label counts nowhere. A value
is NaN where it is undefined: each function says when. A task whose output is not finite on a labelled example has diverged:
all its values are NaN.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor


@dataclass(frozen=True)
class Metric:
    """A metric's name, its direction, and what of a task it looks at."""

    name: str
    higher_is_better: bool | None
    """None: it is a figure of the data, to read others by; no average has it, and no model is chosen by it."""
    of: Literal["classes", "probabilities", "values"]
    """The predicted classes; their probabilities, or the order that these give; or predicted numbers."""
    in_units: bool = False
    """Whether it depends on the unit of the task's labels, which another task's need not have."""

    @property
    def averaged(self) -> bool:
        """Whether its mean over tasks says something."""
        return self.higher_is_better is not None and not self.in_units


def usable(tensor: Tensor) -> Tensor:
    """Without a graph, and on a device that has float64."""
    return tensor.detach().cpu() if tensor.device.type == "mps" else tensor.detach()


def diverged(outputs: Tensor, mask: Tensor) -> Tensor:
    """[T]: whether any output of a labelled example is not finite."""
    return (mask & ~outputs.isfinite()).flatten(1).any(-1)


def in_order(metrics: Sequence[Metric], values: Mapping[str, Tensor], undefined: Tensor) -> dict[str, Tensor]:
    """The values [T] in the order of ``metrics``, NaN for the tasks where ``undefined`` [T] holds."""
    return {metric.name: values[metric.name].masked_fill(undefined, math.nan) for metric in metrics}
