"""How large the tasks' gradients are, and how far they agree: from the Gramian of each step, without waiting for the device.

Shape legend: S steps, T tasks, P shared parameters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mtl_runner.weighting.base import Objectives
from mtl_runner.weighting.tasks import wide

_STEPS, _ENTRIES = 64, 2**17
"""Steps whose Gramians are reduced in one operation; fewer where these are large, and would leave the processor's cache."""


def gramian(objectives: Objectives) -> Tensor:
    """[T, T]: inner products of the tasks' gradients of the shared parameters; leaves the graph and every ``.grad`` as they are.

    T backward passes, T × P numbers.
    """
    shared = list(objectives.shared)
    rows = [
        torch.autograd.grad(part, shared, only, retain_graph=True, materialize_grads=True)
        for part in objectives.parts
        for only in torch.eye(len(part), dtype=part.dtype, device=part.device)
    ]
    jacobian = torch.stack([torch.cat([gradient.flatten() for gradient in row]) for row in rows])
    return jacobian @ jacobian.T


@dataclass
class Sums:
    """Over steps, on the device."""

    pairs: Tensor
    """[3, T, T]: cosines, conflicts, and the steps in which the pair was seen; the diagonal is zero."""
    norms: Tensor
    """[2, T]: norms, and the steps in which the task was seen."""
    steps: Tensor
    """[]: steps in which anything was seen."""

    @classmethod
    def of(cls, gramians: Tensor, active: Tensor) -> "Sums":
        """Those of S steps, from [S, T, T], which may be overwritten, and [S, T].

        A pair is seen where both tasks are active and both gradients finite and not zero.
        """
        squares = wide(gramians.diagonal(dim1=-2, dim2=-1))
        active = active & squares.isfinite()
        norms = squares.masked_fill(~active, 0).sqrt()
        usable = norms > 0
        units = torch.where(usable, 1 / norms, 0)
        cosines = wide(gramians).mul_(units[:, :, None]).mul_(units[:, None, :]).nan_to_num_(0, 0, 0).clamp_(-1, 1)
        pairs = torch.stack([cosines.sum(0), (cosines < 0).sum(0), usable.to(units).T @ usable.to(units)])
        return cls(
            pairs.triu(1) + pairs.tril(-1),
            torch.stack([norms.sum(0), active.sum(0)]),
            active.any(1).sum(),
        )

    def __add__(self, other: "Sums | None") -> "Sums":
        if other is None:
            return self
        device = self.steps.device
        pairs, norms, steps = (theirs.to(device) for theirs in (other.pairs, other.norms, other.steps))
        return Sums(self.pairs + pairs, self.norms + norms, self.steps + steps)


class GradientStatistics:
    """Of one network's training: norms, cosines of pairs of tasks, and conflicts, that is negative cosines.

    Args:
        tasks: their names, in the order of the Gramians.
        of: what the gradients are taken with respect to, in a word.
    """

    def __init__(self, tasks: Sequence[str], of: str = "parameters") -> None:
        self.tasks = list(tasks)
        self.of = of
        self.cosines: Tensor | None = None
        """[T, T]: means over the last epoch; NaN where no step had both tasks."""
        self._waiting: list[tuple[Tensor, Tensor]] = []
        self._epoch: Sums | None = None
        self._whole: Sums | None = None

    def add(self, gramian: Tensor | None, active: Tensor) -> None:
        """Take note of a step; it is looked at later, together with others."""
        if gramian is not None:
            self._waiting.append((gramian, active))
        if len(self._waiting) >= min(_STEPS, _ENTRIES / len(self.tasks) ** 2):
            self._reduce()

    def end_epoch(self) -> dict[str, float]:
        """``gradient/<task>/norm``, the mean over the epoch; ``…/cosine`` and ``…/conflicts``, over its pairs with the others."""
        self._reduce()
        self.cosines = None
        if self._epoch is None:
            return {}
        pairs, norms = self._epoch.pairs.sum(-1), self._epoch.norms
        self.cosines = self._epoch.pairs[0] / self._epoch.pairs[2]
        self._whole, self._epoch = self._epoch + self._whole, None
        kinds = ("norm", "cosine", "conflicts")
        means = torch.stack([norms[0] / norms[1], pairs[0] / pairs[2], pairs[1] / pairs[2]]).tolist()
        return {
            f"gradient/{task}/{kind}": value
            for kind, values in zip(kinds, means, strict=True)
            for task, value in zip(self.tasks, values, strict=True)
            if value == value
        }

    def summary(self) -> dict[str, Any] | None:
        """Of the epochs so far, in plain values: mean norms and cosines, shares of conflicts; None where nothing was seen."""
        if self._whole is None:
            return None
        cosines, conflicts, seen = self._whole.pairs
        norms, counts = self._whole.norms
        return {
            "tasks": self.tasks,
            "of": self.of,
            "steps": int(self._whole.steps),
            "norm": [value if value == value else None for value in (norms / counts).tolist()],
            "cosine": _plain(cosines / seen),
            "conflicts": _plain(conflicts / seen),
        }

    def state_dict(self) -> dict[str, Tensor] | None:
        """Between epochs."""
        return None if self._whole is None else dict(vars(self._whole))

    def load_state_dict(self, state: Mapping[str, Tensor] | None) -> None:
        self._waiting, self._epoch = [], None
        self._whole = None if state is None else Sums(**state)

    def _reduce(self) -> None:
        if self._waiting:
            gramians, active = zip(*self._waiting, strict=True)
            self._epoch = Sums.of(torch.stack(gramians), torch.stack(active)) + self._epoch
            self._waiting = []


def _plain(matrix: Tensor) -> list[list[float | None]]:
    return [[value if value == value else None for value in row] for row in matrix.tolist()]
