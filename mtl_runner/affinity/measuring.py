"""Data, the trainings that measures watch, and the matrices that come of it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from mtl_runner import build, labels
from mtl_runner.affinity.base import Measure, Setting
from mtl_runner.batch import Data
from mtl_runner.build.words import Node, option
from mtl_runner.config import config_dir, plug
from mtl_runner.console import Display
from mtl_runner.errors import UserError
from mtl_runner.model import MultiTaskModel
from mtl_runner.pretrained import Start
from mtl_runner.training import Training


@dataclass(frozen=True)
class Affinity:
    """How related the tasks are by one measure."""

    name: str
    title: str
    tasks: tuple[str, ...]
    values: Tensor
    """[T, T], float64; NaN where nothing can be said, and on the diagonal where it means nothing."""
    directed: bool = False
    """Whether rows act on columns."""

    @property
    def tells(self) -> bool:
        """Whether it tells one pair of tasks from another, or, of two tasks, anything at all."""
        pairs = self.values[self.values.isfinite().fill_diagonal_(False)]
        unknown = self.values.numel() - len(self.tasks) - len(pairs)
        return len(pairs) > 0 and (len(self.tasks) == 2 or unknown > 0 or float(pairs.std()) > 1e-9)


def measured(node: Node, measures: Mapping[str, type[Measure]], every: int = 10, step_size: float = 0.1) -> Iterator[Affinity]:
    """Each of ``measures`` on what a checked configuration describes; those that need no training first.

    Networks are trained at most twice: one that all tasks share, and one for each task alone. Sharing mode and weighting are
    those that a measure is defined for (``hard`` keeps the configuration's own options), all else is as configured.

    Raises:
        UserError: the configuration or the data cannot be used.
    """
    options = build.trainer_options(node["trainer"])
    build.set_up_torch(options)
    data, _ = labels.with_primary_metrics(plug(node["dataset"], "dataset", node["allow_modules"])().load())
    if len(data.targets) < 2:
        raise UserError("mtl affinity compares tasks, and there is only one")
    build.check_strategies(node, data.targets, data.streams)
    setting = Setting(data, node["seed"], every, step_size)
    for mode in ("", "none", "hard"):
        chosen = {name: measure(setting) for name, measure in measures.items() if measure.watches == mode}
        if chosen and mode:
            _train(_with(node, mode), data, list(chosen.values()))
        for name, measure in chosen.items():
            yield Affinity(name, measure.title, tuple(setting.tasks), measure.result(), measure.directed)


def _train(node: Node, data: Data, watching: Sequence[Measure]) -> None:
    """Train with ``watching``, and leave the networks with their best weights."""
    options = build.trainer_options(node["trainer"])
    start = Start(data, **node["init_from"], encoder=node["encoder"]) if node["init_from"] else None
    model = build.make_model(node, data.streams, data.targets, start.load if start else None)
    if model.sharing.independent:
        start_alike(model)
    training = build.make_training(node, options, data, model, build.make_device(options.device))
    _check_shared(training)
    for measure in watching:
        measure.begin(training)
    with Display(training.epochs, training.steps_per_epoch(), options.progress) as display:

        def after_step() -> None:
            display.step()
            for measure in watching if not training.in_second_phase else ():
                measure.after_step()

        for epoch in training.fit(after_step):
            display.epoch(epoch.number, epoch.metrics)
    training.restore_best()


def _with(node: Node, sharing: str) -> dict[str, Any]:
    """The configuration with this sharing mode, and with equal weights."""
    changed = {**node, "weighting": _option("weighting", "equal")}
    if option(node["sharing"]) != sharing:
        changed["sharing"] = _option("sharing", sharing)
    return changed


def _option(group: str, name: str) -> Any:
    """An option's own file, as it is."""
    return OmegaConf.to_container(OmegaConf.load(config_dir() / group / f"{name}.yaml"))


def _check_shared(training: Training) -> None:
    """Whether there is something that gradients can be compared of, where tasks share a network."""
    if not training.model.sharing.independent and not any(trainer.shared for trainer in training.trainers):
        raise UserError(
            "mtl affinity: gradients and lookahead look at shared parameters that are trained, and here there are none "
            "(sharing.shared_stages, init_from.frozen, or a stream of its own for each task with an encoder of one stage)"
        )


@torch.no_grad()
def start_alike(model: MultiTaskModel) -> None:
    """Give the networks of all tasks the same initial weights, wherever their tensors have the same name and shape."""
    first: dict[tuple[str, torch.Size], Tensor] = {}
    for network in model.networks():
        for name, parameter in nn.ModuleList(network.modules).named_parameters():
            parameter.copy_(first.setdefault((name, parameter.shape), parameter.detach().clone()))
