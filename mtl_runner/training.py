"""Training of the whole model: its networks side by side, an epoch of each at a time."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from time import perf_counter
from typing import Any

import torch

from mtl_runner.evaluate import Report, averages, score
from mtl_runner.imbalance.base import Adjuster
from mtl_runner.model import MultiTaskModel
from mtl_runner.trainer import Trainer


@dataclass(frozen=True)
class Epoch:
    """What an epoch was like."""

    number: int
    step: int
    """Optimizer steps since the beginning, of the network that has taken the most."""
    undefined: Sequence[str]
    """``task (metrics)`` without a value on the validation part."""
    metrics: Mapping[str, float]
    """Flat: ``train/<task>/loss``, ``validation/<task>/<metric>``, ``validation/average``, ``weight/<task>``,
    ``gradient/<task>/cosine``, ``lr`` …"""
    seconds: Mapping[str, float]
    """``steps`` and ``validation``: what they took."""


@dataclass(frozen=True)
class Second:
    """A second phase of training, which begins when the first has its best weights."""

    epochs: int
    """Its budget."""
    trainers: Callable[[int, int], list[Trainer]]
    """Makes what trains in it, for a start after so many epochs and steps."""


class Training:
    """One trainer where anything couples the tasks; where nothing does, one per task, each as in a run of its own.

    Args:
        model: what all of them train.
        trainers: one for each of the model's networks.
        second: what follows, where anything does.
    """

    def __init__(self, model: MultiTaskModel, trainers: Sequence[Trainer], second: Second | None = None) -> None:
        self.model = model
        self.trainers = list(trainers)
        self.plan = trainers[0].plan
        self._second = second
        self._first: list[Trainer] = []
        """The trainers of the first phase, once the second has begun."""
        self._began = (0, 0)
        self._frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]

    @property
    def running(self) -> list[Trainer]:
        """Those that have budget left and have not stopped early."""
        return [trainer for trainer in self.trainers if trainer.running]

    @property
    def stopped_early(self) -> bool:
        """Whether a larger budget would change nothing."""
        return all(trainer.learner.stopping.done for trainer in self.trainers)

    @property
    def number(self) -> int:
        """The epoch that was trained last."""
        return max(trainer.progress.epoch for trainer in self.trainers)

    @property
    def epochs(self) -> int:
        """The budget, of both phases."""
        budget = max(trainer.plan.epochs for trainer in self.trainers)
        return budget if self._second is None or self.in_second_phase else budget + self._second.epochs

    @property
    def device(self) -> torch.device:
        return self.trainers[0].loader.device

    @property
    def step(self) -> int:
        return max(trainer.progress.step for trainer in self.trainers)

    def fit(self, each_step: Callable[[], None] = lambda: None) -> Iterator[Epoch]:
        """Train until every network has used up its budget or has stopped early; yields after each epoch."""
        while running := self._next():
            metrics: dict[str, float] = {}
            began = perf_counter()
            for trainer in running:
                metrics |= trainer.epoch(each_step)
                metrics[f"lr/{trainer.names[0]}" if self.model.sharing.independent else "lr"] = trainer.learner.learning_rate
            if skipped := sum(trainer.progress.skipped for trainer in self.trainers):
                metrics["skipped_steps"] = float(skipped)
            trained = perf_counter()
            report = self.validate()
            for trainer in running:
                trainer.end_epoch(report)
            metrics |= self._flat(report)
            finite = {name: value for name, value in metrics.items() if isfinite(value)}
            seconds = {"steps": trained - began, "validation": perf_counter() - trained}
            yield Epoch(self.number, self.step, report.undefined(), finite, seconds)

    def _next(self) -> list[Trainer]:
        """Those that train the next epoch."""
        if not self.running and self._second is not None and not self.in_second_phase:
            self.restore_best()
            self._begin_second(self.number, self.step)
        return self.running

    def _begin_second(self, epochs: int, steps: int) -> None:
        assert self._second is not None
        self._first, self._began = self.trainers, (epochs, steps)
        self.trainers = self._second.trainers(epochs, steps)

    @property
    def in_second_phase(self) -> bool:
        return bool(self._first)

    @property
    def all_trainers(self) -> list[Trainer]:
        """Those of both phases."""
        return [*self._first, *self.trainers]

    def adjust(self, adjusters: Mapping[str, Adjuster]) -> None:
        """Choose how the outputs of tasks are to be read, with the weights as they are."""
        for trainer in self._first or self.trainers:
            trainer.adjust(adjusters)
        for trainer in self.all_trainers:
            trainer.forget()

    def validate(self) -> Report:
        """Validation metrics of all tasks; those that the second phase leaves alone have the ones that the first ended with."""
        reports = [trainer.validate() for trainer in self.all_trainers]
        return Report(
            {task: values for report in reports for task, values in report.metrics.items()},
            {task: loss for report in reports for task, loss in report.losses.items()},
        )

    def average(self) -> float | None:
        """The validation average: of the main tasks, or of all where none is."""
        tasks = self.model.tasks
        return score(self.validate().metrics, [task for task in tasks if task.main] or tasks)

    def gradients(self) -> dict[str, Any] | None:
        """Norms, cosines and conflicts of the tasks' gradients, of the one network in which tasks share anything."""
        return next((said for trainer in self.all_trainers if (said := trainer.statistics.summary())), None)

    def steps_per_epoch(self) -> int:
        return sum(trainer.batches() for trainer in self.trainers)

    def restore_best(self) -> None:
        """Give every network the weights of its best epoch of the phase."""
        for trainer in self.trainers:
            trainer.learner.restore_best()

    def _flat(self, report: Report) -> dict[str, float]:
        metrics = {f"validation/{task}/loss": loss for task, loss in report.losses.items()}
        for task, values in report.metrics.items():
            metrics |= {f"validation/{task}/{name}": value for name, value in values.items()}
        average = averages(report.metrics, self.model.tasks).get("primary")
        return metrics if average is None else metrics | {"validation/average": average}

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "frozen": self._frozen,
            "trainers": [trainer.state_dict() for trainer in self.trainers],
            "first": [trainer.state_dict() for trainer in self._first],
            "began": self._began,
            "torch_rng": torch.get_rng_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if first := state.get("first"):  # the first checkpoints know of no phases
            _load(self.trainers, first)
            self._begin_second(*state["began"])
        self.model.load_state_dict(state["model"])
        _load(self.trainers, state["trainers"])
        torch.set_rng_state(state["torch_rng"].cpu())


def _load(trainers: Sequence[Trainer], states: Sequence[dict[str, Any]]) -> None:
    for trainer, state in zip(trainers, states, strict=True):
        trainer.load_state_dict(state)
