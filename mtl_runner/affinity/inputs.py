"""How alike the inputs of tasks with rows of their own are.

Shape legend: N rows, C columns.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from mtl_runner.affinity.base import ROWS, Measure
from mtl_runner.affinity.matrices import flat, pairwise
from mtl_runner.batch import Fields, StreamSpec, labelled
from mtl_runner.fetching import as_tensors
from mtl_runner.seeding import generator


class Inputs(Measure):
    """1 - MMD of the training rows that are labelled for each task: 1 for inputs of one distribution, less for others.

    MMD² = E k(x, x') + E k(y, y') - 2 E k(x, y), estimated without bias and at least 0, with k(x, y) = exp(-‖x - y‖² / (2 s²))
    and s² half of the median of all tasks' squared distances, the same for all pairs (Gretton et al., A kernel two-sample test,
    JMLR 13, 2012). Numbers and pixels as the network gets them, categories as indicators, tokens as shares of their sequence.
    At most 1,000 rows of each task, drawn; tasks with the same labelled rows have the same draw.

    NaN for tasks of streams that differ in fields or columns, of two streams of tokens, or with fewer than two labelled rows.
    """

    title = "similarity of the inputs"

    def result(self) -> Tensor:
        rows = {task: self._rows(task) for task in self.tasks}
        streams, targets = self.setting.data.streams, self.setting.data.targets
        kinds: dict[str, str] = {}
        for task in self.tasks:
            stream = targets[task].stream
            kinds[task] = next((each for each in kinds.values() if comparable(streams, each, stream)), stream)
        scales = {kind: _scale([rows[task] for task in self.tasks if kinds[task] == kind]) for kind in set(kinds.values())}

        def of(one: str, other: str) -> float:
            few = min(len(rows[one]), len(rows[other])) < 2
            return torch.nan if kinds[one] != kinds[other] or few else 1 - mmd(rows[one], rows[other], scales[kinds[one]])

        return pairwise(self.tasks, of)

    def _rows(self, task: str) -> Tensor:
        """[N, C] of the labelled training rows."""
        part, spec = self.setting.data.splits["train"], self.setting.data.targets[task]
        known = flat(labelled(part.targets[task])).any(1).nonzero().flatten()
        draws = generator(self.setting.seed, "affinity", "inputs", spec.stream)
        chosen = known[torch.randperm(len(known), generator=draws)[:ROWS]]
        fields = {name: value[chosen] for name, value in part.inputs[spec.stream].items()}
        return columns(as_tensors(fields), self.setting.data.streams[spec.stream])


def comparable(streams: Mapping[str, StreamSpec], one: str, other: str) -> bool:
    """Whether columns of two streams are the same: tokens of two vocabularies never are."""
    return one == other or (streams[one] == streams[other] and "tokens" not in streams[one].fields)


def columns(fields: Fields, spec: StreamSpec) -> Tensor:
    """[N, C] numbers, float64."""
    parts = []
    for name, value in fields.items():
        if name == "categorical":
            parts += [F.one_hot(each, count) for each, count in zip(value.T, spec.cardinalities, strict=True)]
        elif name == "tokens":
            counts = F.one_hot(value, spec.vocabulary).sum(1)[:, 1:]
            parts.append(counts / counts.sum(1, keepdim=True).clamp_min(1))
        else:
            parts.append(flat(value))
    return torch.cat([part.double() for part in parts], 1)


def mmd(x: Tensor, y: Tensor, scale: float) -> float:
    """The maximum mean discrepancy of the rows [N, C] and [M, C] with exp(-d² / scale) as kernel; N and M at least 2."""
    within = [(torch.exp(-_squared(each, each) / scale).sum() - len(each)) / (len(each) * (len(each) - 1)) for each in (x, y)]
    across = torch.exp(-_squared(x, y) / scale).mean()
    return float((within[0] + within[1] - 2 * across).clamp_min(0).sqrt())


def _scale(rows: list[Tensor]) -> float:
    """2 s², the median of the squared distances of all rows, or 1 where it is 0."""
    some = torch.cat([each[: max(2, 2 * ROWS // len(rows))] for each in rows])
    distances = _squared(some, some)[torch.triu_indices(len(some), len(some), 1).unbind()]
    return (float(distances.median()) if len(distances) else 0.0) or 1.0


def _squared(x: Tensor, y: Tensor) -> Tensor:
    return torch.cdist(x, y).square()
