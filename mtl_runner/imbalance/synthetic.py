"""What the strategies that make new rows share: how many are made for each task, from what, and what they carry.

Shape legend: N rows of the stream, n of them labelled for a task, M new ones, D numbers, K categories.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Gt, Le
from torch import Tensor

from mtl_runner.batch import Fields, Split, TargetSpec, labelled
from mtl_runner.errors import NotApplicable
from mtl_runner.imbalance.base import Resampler
from mtl_runner.imbalance.rows import on, unlabelled_at, with_examples, without
from mtl_runner.imbalance.tables import Labels, Mask, Table, as_fields, as_table, nearest, snapped, space

Amount = Literal["auto", "minority", "not majority"] | Annotated[float, Gt(0), Le(1)]
Others = Literal["missing", "nearest"]


@dataclass(frozen=True)
class Problem:
    """The rows that are labelled for a task."""

    task: str
    stream: str
    rows: Tensor
    """Which of the stream they are, [n]."""
    table: Table
    """[n, D + K]."""
    classes: Labels
    """[n]."""
    numbers: int
    """D."""


@dataclass(frozen=True)
class Request:
    """``number`` new rows of the class ``label``, of which there are ``own`` in the problem."""

    problem: Problem
    label: int
    number: int
    own: int
    seed: int
    random: np.random.RandomState
    """Goes on from class to class; ``seed`` is the same for all."""

    @property
    def amount(self) -> dict[int, int]:
        """imbalanced-learn's ``sampling_strategy`` for it: how many rows of the class there are to be."""
        return {self.label: self.own + self.number}

    @property
    def categories(self) -> list[int]:
        """Positions of the K categories in the table."""
        return list(range(self.problem.numbers, self.problem.table.shape[1]))


@dataclass(frozen=True)
class Examples:
    """New rows of a stream."""

    fields: Fields
    labels: Mapping[str, Tensor]
    """By task, [M, …]; a task that is not there has none."""
    weights: Mapping[str, Tensor]


class Synthetic(Resampler):
    """Base of the strategies that make new rows of rare classes out of existing ones, once for the whole training.

    Streams of numbers and categories can have them. For each task, new rows are made from the original rows that are labelled
    for it, never from new ones, and have the label of that task only: each task is balanced on its own, and its resampling
    leaves the labels of the others as they were. So the training part grows by what all tasks need together. With ``others:
    nearest`` a new row has for every other task what the nearest original row of the same class has, label or target, and its
    weight: there is more to learn from, but the others' shares move as well, and labels that were guessed count like true ones.

    imbalanced-learn makes the rows, one class at a time. Where it would refuse because a class has few examples, this does
    not, as among many rare tasks some are always that rare: a class of m examples takes m - 1 neighbours where more were asked
    for, the only example of a class is repeated as it is, and a class without an example stays without.

    A column of numbers with two values in the stream (yes or no, or the indicator of a missing value) has the nearer of the
    two in a new row; in between, where interpolation puts it, lies no real row. A new row weighs as much as those of its class
    do on average; its ``row`` is -1.

    Args:
        sampling_strategy: ``auto`` or ``not majority``: every class as frequent as the largest; ``minority``: the smallest
            class only; a number r, for tasks with two classes: ⌊r · n_max⌋ rows of the rarer one, if it has not more already.
        others: what new rows have for the other tasks.
        tasks: act on these tasks only; on all binary and multiclass tasks otherwise.
    """

    kinds = frozenset({"binary", "multiclass"})
    needs = frozenset({"numeric", "categorical"})
    renewed = False
    option: ClassVar[str]
    """Its name in a configuration."""
    nominal: ClassVar[bool]
    """Whether it has a rule for categories."""

    def __init__(self, sampling_strategy: Amount, others: Others, tasks: Sequence[str] | None) -> None:
        super().__init__(tasks)
        self.sampling_strategy = sampling_strategy
        self.others = others

    @abstractmethod
    def sampler(self, request: Request) -> Any:
        """imbalanced-learn's object for this class, which has two examples at least."""

    def made(self, request: Request) -> Table:
        """The new rows of a class, [number, D + K]."""
        table, classes = request.problem.table, request.problem.classes
        if request.own == 1:
            return np.repeat(table[classes == request.label], request.number, axis=0)
        rows: Table = self.sampler(request).fit_resample(table, classes)[0][len(table) :].astype(np.float32)
        return rows

    def kept(self, problem: Problem, new: Table, labels: Labels) -> tuple[Mask, Mask]:
        """Which of the original rows [n] stay, and which of the new ones [M]."""
        return np.ones(len(problem.table), bool), np.ones(len(new), bool)

    def __call__(self, split: Split, targets: Mapping[str, TargetSpec], generator: torch.Generator) -> Split:
        lost: dict[str, dict[str, Tensor]] = {stream: {} for stream in split.inputs}
        further: dict[str, list[Examples]] = {stream: [] for stream in split.inputs}
        for name, spec in targets.items():
            seed = int(torch.randint(2**32, (), generator=generator))
            problem = self._problem(split, name)
            new, labels = self._new(problem, spec, split.inputs[problem.stream], seed)
            stay, added = self.kept(problem, new, labels)
            gone = torch.zeros(len(split.targets[name]), dtype=torch.bool)
            gone[problem.rows[torch.from_numpy(~stay)]] = True
            lost[problem.stream][name] = gone
            further[problem.stream].append(self._examples(split, problem, new[added], labels[added]))
        out = split
        for stream in split.inputs:
            out = without(out, stream, lost[stream])
            if further[stream]:
                out = with_examples(out, stream, *_joined(split, further[stream]))
        return out

    def _problem(self, split: Split, name: str) -> Problem:
        stream, target = split.streams[name], split.targets[name]
        fields = split.inputs[stream]
        if not self.nominal and "categorical" in fields:
            raise NotApplicable(
                f"imbalance.{self.option}: task {name} reads categorical columns, and {self.option} has no rule for them; "
                f"imbalance=smote and smote_tomek have one, or limit this one to other tasks: imbalance.{self.option}.tasks=[…]"
            )
        rows = labelled(target).nonzero().squeeze(1)
        numbers = fields["numeric"].shape[1] if "numeric" in fields else 0
        return Problem(name, stream, rows, as_table(fields)[rows.numpy()], target[rows].long().numpy(), numbers)

    def _new(self, problem: Problem, spec: TargetSpec, fields: Fields, seed: int) -> tuple[Table, Labels]:
        """The new rows [M, D + K] and their classes [M]."""
        random = np.random.RandomState(seed)
        tables, labels = [problem.table[:0]], [problem.classes[:0]]
        for label, number in self._wanted(problem, spec).items():
            own = int((problem.classes == label).sum())
            tables.append(self.made(Request(problem, label, number, own, seed, random)))
            labels.append(np.full(len(tables[-1]), label))
        return snapped(np.concatenate(tables), as_table(fields), problem.numbers), np.concatenate(labels)

    def _wanted(self, problem: Problem, spec: TargetSpec) -> dict[int, int]:
        """Number of new rows by class."""
        present, sizes = np.unique(problem.classes, return_counts=True)
        counts = dict(zip(present.tolist(), sizes.tolist(), strict=True))
        most, share = max(counts.values(), default=0), 1.0
        if not isinstance(self.sampling_strategy, str):
            share = self.sampling_strategy
            if len(spec.classes) != 2:
                raise NotApplicable(
                    f"imbalance.{self.option}.sampling_strategy={share}: a number is for tasks with two classes, and "
                    f"{problem.task} has {len(spec.classes)}; auto, minority and not majority are for any number of them"
                )
        elif self.sampling_strategy == "minority" and counts:
            rarest = min(counts, key=counts.__getitem__)
            counts = {rarest: counts[rarest]}
        wanted = {label: int(most * share - count) for label, count in counts.items()}
        return {label: number for label, number in wanted.items() if number > 0}

    def _examples(self, split: Split, problem: Problem, new: Table, classes: Labels) -> Examples:
        """The new rows with what they have for each task."""
        labels, weights = {problem.task: torch.from_numpy(classes)}, {}
        if problem.task in split.weights:
            own = split.weights[problem.task][problem.rows]
            means = {label: own[torch.from_numpy(problem.classes == label)].mean() for label in np.unique(classes)}
            weights[problem.task] = torch.tensor([means[label] for label in classes], dtype=own.dtype)
        others = [task for task in on(split, problem.stream) if task != problem.task]
        if self.others == "nearest" and others and len(new):
            points = space(np.concatenate([problem.table, new]), problem.numbers, len(problem.table))
            places = problem.rows[torch.from_numpy(nearest(points, problem.classes, classes))]
            labels |= {task: split.targets[task][places] for task in others}
            weights |= {task: split.weights[task][places] for task in others if task in split.weights}
        return Examples(as_fields(new, split.inputs[problem.stream]), labels, weights)


def _joined(split: Split, parts: Sequence[Examples]) -> tuple[Fields, dict[str, Tensor], dict[str, Tensor]]:
    """Inputs, labels and weights of all parts, one after the other; of a task without any in a part, missing labels and 1."""
    sizes = [len(next(iter(part.fields.values()))) for part in parts]
    fields = {name: torch.cat([part.fields[name] for part in parts]) for name in parts[0].fields}
    labels, weights = {}, {}
    for task in {task: None for part in parts for task in part.labels}:
        like = split.targets[task]
        missing = [unlabelled_at(like.new_empty(size, *like.shape[1:])) for size in sizes]
        own = [part.labels.get(task, none).to(like.dtype) for part, none in zip(parts, missing, strict=True)]
        labels[task] = torch.cat(own)
        if task in split.weights:
            ones = [split.weights[task].new_ones(size) for size in sizes]
            weights[task] = torch.cat([part.weights.get(task, one) for part, one in zip(parts, ones, strict=True)])
    return fields, labels, weights
