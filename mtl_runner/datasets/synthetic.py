"""Tasks whose relatedness is known: linear tasks with planted cosines between their true weight vectors."""

from collections.abc import Sequence
from statistics import NormalDist
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge, Gt, Lt
from numpy.typing import NDArray
from torch import Tensor

from mtl_runner.batch import MISSING, Data
from mtl_runner.datasets.base import Dataset, Tasks, known, task_options
from mtl_runner.datasets.rows.arrays import Source, assembled
from mtl_runner.datasets.rows.preparation import Number, Preparation, Target
from mtl_runner.errors import UserError
from mtl_runner.seeding import generator

_TOLERANCE = 1e-9


class Synthetic(Dataset):
    """Inputs x ~ N(0, I); task t has the score s_t = w_t · x + noise · e with |w_t| = 1 and e ~ N(0, 1).

    The cosine between w_t and w_u is exactly ``cosine_inside`` if t and u are in one group and ``cosine_across`` if not. Targets:
    the score itself (regression), whether it is among the highest ``positive_share`` of the population (binary), or which of the
    consecutive intervals with the shares of the classes it falls in (multiclass: class 0 holds the lowest scores).

    Args:
        n_tasks: number of tasks; their names are ``task_0``, ``task_1`` …
        kind: of every task.
        groups: number of groups (tasks are dealt out in order: the first ones are in group 0), or the group of each task.
        dimension: number of inputs; at least the rank of the planted cosines.
        rows, validation_rows, test_rows: number of rows of each part.
        classes: number of classes (multiclass).
        class_shares: their shares; None: equal ones, or with ``long_tail`` r falling ones, the last 1/r of the first.
        missing: share of labels that are missing completely at random, of all tasks or of each.
        missing_parts: where they are missing.
        disjoint: each row is labelled for one task only, as if every task had rows of its own.
        disjoint_parts: in which parts.
        tasks: options ``role`` and ``metric`` by task name.
        only: train only these; rows and labels stay the same.
        split_seed: moves all of the data.
    """

    provides = frozenset({"numeric"})

    def __init__(
        self,
        *,
        n_tasks: Annotated[int, Ge(1)] = 4,
        kind: Literal["binary", "multiclass", "regression"] = "binary",
        groups: Annotated[int, Ge(1)] | list[int] = 2,
        cosine_inside: Annotated[float, Ge(-1)] = 0.9,
        cosine_across: Annotated[float, Ge(-1)] = 0.0,
        dimension: Annotated[int, Ge(1)] = 64,
        rows: Annotated[int, Ge(1)] = 4000,
        validation_rows: Annotated[int, Ge(1)] = 1000,
        test_rows: Annotated[int, Ge(1)] = 1000,
        noise: Annotated[float, Ge(0)] = 0.5,
        positive_share: Annotated[float, Gt(0), Lt(1)] = 0.5,
        classes: Annotated[int, Ge(2)] = 4,
        class_shares: list[float] | None = None,
        long_tail: Annotated[float, Gt(1)] | None = None,
        missing: float | list[float] = 0.0,
        missing_parts: list[Literal["train", "validation", "test"]] | None = None,
        disjoint: bool = False,
        disjoint_parts: list[Literal["train", "validation", "test"]] | None = None,
        tasks: dict[str, dict[str, Any] | None] | None = None,
        only: list[str] | None = None,
        split_seed: int = 0,
        stream: str = "input",
    ) -> None:
        self.kind, self.noise, self.only, self.stream = kind, noise, only, stream
        self.dimension, self.seed = dimension, split_seed
        self.rows = {"train": rows, "validation": validation_rows, "test": test_rows}
        self.names = [f"task_{task}" for task in range(n_tasks)]
        for name in tasks or {}:
            known(name, self.names, "dataset.tasks: task")
        options: Tasks = {name: (tasks or {}).get(name) for name in self.names}
        self.options = task_options(options, ("role", "metric"))
        self.groups = _group_of(n_tasks, groups)
        self.cosines = _cosines(self.groups, cosine_inside, cosine_across)
        self.shares = _shares(classes, class_shares, long_tail) if kind == "multiclass" else (1 - positive_share, positive_share)
        self.missing = _per_task(missing, n_tasks)
        self.missing_parts = ["train"] if missing_parts is None else missing_parts
        self.disjoint_parts = (["train"] if disjoint_parts is None else disjoint_parts) if disjoint else []
        _factor(self.cosines, dimension)

    def load(self) -> Data:
        """Draw everything; each quantity has a random stream of its own, so that changing one option leaves the others' draws."""
        weights = self.true_weights()
        inputs, targets, parts, start = [], [], {}, 0
        for part, rows in self.rows.items():
            x = torch.randn(rows, self.dimension, generator=generator(self.seed, "inputs", part))
            noise = [torch.randn(rows, generator=generator(self.seed, "noise", part, name)) for name in self.names]
            scores = x @ weights.float().T + self.noise * torch.stack(noise, dim=1)
            inputs.append(x)
            targets.append(self._labels(scores, part))
            parts[part] = np.arange(start, start := start + rows)
        columns = torch.cat(targets)
        described, values = self._targets(columns, self.rows["train"])
        preparation = Preparation(
            tuple(Number(f"x_{place}") for place in range(self.dimension)), tasks=described, stream=self.stream
        )
        source = Source({"numeric": torch.cat(inputs).numpy()}, values, {"row": np.arange(len(columns))})
        return assembled(source, parts, preparation, self.options, self.only)

    def true_weights(self) -> Tensor:
        """The planted weight vectors, float64 [tasks, dimension], each of length 1."""
        factor = torch.from_numpy(_factor(self.cosines, self.dimension))
        random = torch.randn(self.dimension, factor.shape[1], dtype=torch.float64, generator=generator(self.seed, "weights"))
        basis: Tensor = torch.linalg.qr(random).Q
        return factor @ basis.T

    def _labels(self, scores: Tensor, part: str) -> Tensor:
        """Scores or classes as floats, [N, T], NaN where missing."""
        if self.kind != "regression":
            spread = NormalDist(sigma=(1 + self.noise**2) ** 0.5)
            cuts = [spread.inv_cdf(min(share, 1 - 1e-12)) for share in np.cumsum(self.shares)[:-1]]
            scores = torch.bucketize(scores, torch.tensor(cuts)).float()
        if part in self.missing_parts:
            drawn = [torch.rand(len(scores), generator=generator(self.seed, "missing", part, name)) for name in self.names]
            scores = scores.where(torch.stack(drawn, dim=1) >= torch.tensor(self.missing), torch.nan)
        if part in self.disjoint_parts:
            names = () if part == "train" else (part,)  # the training part's draw is older than the others
            chosen = torch.randint(len(self.names), (len(scores), 1), generator=generator(self.seed, "disjoint", *names))
            scores = scores.where(torch.arange(len(self.names)) == chosen, torch.nan)
        return scores

    def _targets(self, columns: Tensor, training: int) -> tuple[dict[str, Target], dict[str, NDArray[Any]]]:
        described: dict[str, Target] = {}
        values: dict[str, NDArray[Any]] = {}
        names = ("negative", "positive") if self.kind == "binary" else tuple(map(str, range(len(self.shares))))
        labels = {str(label): label for label in range(len(names))} | {name: label for label, name in enumerate(names)}
        for name, column in zip(self.names, columns.T.contiguous(), strict=True):
            if self.kind == "regression":
                known_values = column[:training][~column[:training].isnan()].double()
                center = float(known_values.mean()) if len(known_values) else 0.0
                scale = (float(known_values.std(correction=0)) if len(known_values) else 0.0) or 1.0
                described[name] = Target(self.kind, (name,), center=(center,), scale=(scale,), flat=True)
                column = ((column.double() - center) / scale).float()
            else:
                described[name] = Target(self.kind, (name,), names, labels)
                if self.kind == "multiclass":
                    column = column.nan_to_num(MISSING).long()
            values[name] = column.numpy()
        return described, values


def _group_of(tasks: int, groups: int | Sequence[int]) -> list[int]:
    if isinstance(groups, int):
        if groups > tasks:
            raise UserError(f"dataset.groups={groups} is more than dataset.n_tasks={tasks}")
        return [task * groups // tasks for task in range(tasks)]
    if len(groups) != tasks:
        raise UserError(f"dataset.groups names the group of {len(groups)} tasks; dataset.n_tasks={tasks}")
    return list(groups)


def _cosines(groups: Sequence[int], inside: float, across: float) -> NDArray[np.float64]:
    group = np.array(groups)
    gram = np.where(group[:, None] == group, inside, across).astype(np.float64)
    np.fill_diagonal(gram, 1)
    return gram


def _factor(gram: NDArray[np.float64], dimension: int) -> NDArray[np.float64]:
    """F [T, rank] with F Fᵀ = the Gram matrix; there are vectors with these cosines only if it has no negative eigenvalue."""
    values, vectors = np.linalg.eigh(gram)
    if values[0] < -_TOLERANCE:
        raise UserError(
            "dataset.cosine_inside and cosine_across contradict each other for these groups: no vectors have such cosines "
            f"(smallest eigenvalue of their matrix {values[0]:.3g}); bring cosine_across nearer to 0, or cosine_inside to 1"
        )
    positive = values > _TOLERANCE
    if positive.sum() > dimension:
        raise UserError(f"dataset.dimension={dimension} is too small: these cosines need {positive.sum()} dimensions")
    return np.asarray(vectors[:, positive] * np.sqrt(values[positive]))


def _shares(classes: int, shares: Sequence[float] | None, long_tail: float | None) -> tuple[float, ...]:
    if shares is None:
        shares = [(long_tail or 1.0) ** (-place / (classes - 1)) for place in range(classes)]
    elif len(shares) != classes or min(shares) <= 0:
        raise UserError(f"dataset.class_shares={list(shares)} must be {classes} positive numbers (dataset.classes={classes})")
    return tuple(share / sum(shares) for share in shares)


def _per_task(missing: float | Sequence[float], tasks: int) -> list[float]:
    values = [float(missing)] * tasks if isinstance(missing, int | float) else list(missing)
    if len(values) != tasks or not all(0 <= value <= 1 for value in values):
        raise UserError(f"dataset.missing={missing!r} must be a share from 0 to 1, or one for each of the {tasks} tasks")
    return values
