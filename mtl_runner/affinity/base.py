"""What a measure of the tasks' relatedness is: it may watch a training, and ends in a matrix [T, T]."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from mtl_runner.batch import Batch, Data
from mtl_runner.fetching import at_once
from mtl_runner.seeding import generator
from mtl_runner.tasks.group import masked
from mtl_runner.trainer import Trainer
from mtl_runner.training import Training
from mtl_runner.weighting.base import Objectives

ROWS, PROBED = 1000, 4000
"""At most so many rows are compared with each other, and looked at by a network."""
LEARNED = 0.8
"""Share of the fall of a task's validation loss in which it is compared with others."""


@dataclass(frozen=True)
class Setting:
    """What all measures look at, and how closely."""

    data: Data
    seed: int = 0
    every: int = 10
    """Steps of the training from one look to the next."""
    step_size: float = 0.1
    """η of the step that is tried."""

    @property
    def tasks(self) -> list[str]:
        """The T tasks, in the order of every matrix."""
        return list(self.data.targets)


class Measure(ABC):
    """How related two tasks are: larger is more, NaN where that cannot be said.

    Args:
        setting: the data and the options.
    """

    title: ClassVar[str]
    """What the numbers are, in a few words."""
    watches: ClassVar[Literal["", "none", "hard"]] = ""
    """The sharing mode of the training that it looks at; empty: none."""
    directed: ClassVar[bool] = False
    """Whether row t and column u say what t does to u, and not what both have in common."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.tasks = setting.tasks

    def begin(self, training: Training) -> None:  # noqa: B027 - some look at the data, or at the end of the training only
        """Called before the training."""

    def after_step(self) -> None:  # noqa: B027 - as above
        """Called after each step of the training; leaves it as if nobody had looked."""

    @abstractmethod
    def result(self) -> Tensor:
        """[T, T], float64, on the CPU; called once, when the networks have their best weights. The diagonal plays no part."""


class Probe(Measure):
    """The mean of looks at a network that all tasks share, at one of ``every`` steps, on validation rows.

    A look counts for two tasks as long as both learn: until the validation loss of one has made four fifths of its way from the
    first look down to its lowest. From then on signs vary with the noise of the steps, and tasks are fitted to their own rows,
    which others have nothing to do with; on training rows the gradients of fitted tasks cancel, Σ ∇L_t ≈ 0, so that related ones
    would seem to disagree. At most 4,000 rows a look, drawn; which ones depends on seed and step alone.
    """

    watches = "hard"

    def begin(self, training: Training) -> None:
        (self.trainer,) = training.trainers
        self.part = masked(self.trainer.validation)
        self.looks: list[Tensor] = []
        self.losses: list[Tensor] = []

    def after_step(self) -> None:
        trainer = self.trainer
        if (trainer.progress.step - 1) % self.setting.every == 0:
            batch = self._batch()
            trainer.replay.mark()
            with trainer.replay.again():  # dropout masks and batch statistics go on as they were
                objectives = trainer.objectives(batch)
                self.looks.append(self.look(trainer, batch, objectives).double().cpu())
            self.losses.append(objectives.losses.where(objectives.active, torch.nan).cpu())

    @abstractmethod
    def look(self, trainer: Trainer, batch: Batch, objectives: Objectives) -> Tensor:
        """[T, T], tasks in the order of the trainer: how they compare on ``batch`` with the weights as they are, and stay.

        NaN where one of two tasks has no label there.
        """

    def result(self) -> Tensor:
        """NaN for a pair that no look had labels of."""
        looks, ends = torch.stack(self.looks), learned(torch.stack(self.losses))
        counts = torch.arange(len(looks))[:, None, None] < torch.minimum(ends[:, None], ends)
        means = looks.where(counts, torch.nan).nanmean(0)
        places = [self.trainer.names.index(task) for task in self.tasks]
        return means[places][:, places]

    def _batch(self) -> Batch:
        rows = {}
        for stream in self.part.inputs:
            draws = generator(self.setting.seed, "affinity", stream, self.trainer.progress.step)
            chosen = torch.randperm(self.part.size(stream), generator=draws)[:PROBED]
            rows[stream] = chosen.to(self.trainer.loader.device)
        return at_once(self.part.take(rows))


def learned(losses: Tensor) -> Tensor:
    """How many looks [T] each task takes until it has made ``LEARNED`` of its way; at least 1, from losses [looks, T]."""
    lowest = losses.nan_to_num(torch.inf, torch.inf).amin(0)
    there = losses <= lowest + (1 - LEARNED) * (losses[0] - lowest)
    return torch.where(there.any(0), there.int().argmax(0), len(losses)).clamp_min(1)
