"""From arrays over all rows and the positions of each part to the ``Data`` that a data set returns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mtl_runner.batch import Data, Split
from mtl_runner.datasets.base import TaskOptions, described, fingerprint, select
from mtl_runner.datasets.rows.preparation import Preparation
from mtl_runner.datasets.stratify import Ints

Array = NDArray[Any]


@dataclass(frozen=True)
class Source:
    """All rows of one stream, before they are split."""

    inputs: Mapping[str, Array]
    """By field, [N, …]."""
    targets: Mapping[str, Array]
    """By task, [N, …], as a ``Batch`` wants them."""
    context: Mapping[str, Array] = field(default_factory=dict)
    weights: Array | None = None
    """Per example, [N], the same for each task."""


def assembled(
    source: Source,
    parts: Mapping[str, Ints],
    preparation: Preparation,
    options: Mapping[str, TaskOptions],
    only: Sequence[str] | None,
    notes: Sequence[str] = (),
) -> Data:
    """The data set, narrowed to the tasks in ``only`` after everything else is settled."""
    splits = {part: _part(source, rows, preparation.stream) for part, rows in parts.items()}
    specs = {name: described(target.spec(preparation.stream), options[name]) for name, target in preparation.tasks.items()}
    streams = {preparation.stream: preparation.stream_spec}
    data = Data(splits, streams, specs, preparation.to_json(), fingerprint(splits), tuple(notes))
    return select(data, only)


def _part(source: Source, rows: Ints, stream: str) -> Split:
    def taken(arrays: Mapping[str, Array]) -> dict[str, torch.Tensor]:
        return {name: torch.from_numpy(np.ascontiguousarray(array[rows])) for name, array in arrays.items()}

    weights = {} if source.weights is None else taken(dict.fromkeys(source.targets, source.weights))
    return Split(
        {stream: taken(source.inputs)},
        taken(source.targets),
        dict.fromkeys(source.targets, stream),
        weights,
        {stream: taken(source.context)} if source.context else {},
    )
