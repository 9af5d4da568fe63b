"""From the configuration to objects: the only module that instantiates options."""

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from omegaconf import DictConfig
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from mtl_runner.batch import Data, StreamSpec, TargetSpec
from mtl_runner.config import TrainerConfig, plug
from mtl_runner.config.schema import EarlyStopping, plain
from mtl_runner.encoders.base import Encoder
from mtl_runner.encoders.stacked import StackedBatchNorm
from mtl_runner.errors import UserError, choices, nearest
from mtl_runner.imbalance.base import Criterion, Resampler, Strategy
from mtl_runner.learner import Learner, Stopping
from mtl_runner.loader import IndexLoader, TrainingRows
from mtl_runner.model import MultiTaskModel, Network
from mtl_runner.seeding import seeded
from mtl_runner.sharing.base import Sharing
from mtl_runner.tasks import make_tasks
from mtl_runner.tasks.base import Task
from mtl_runner.trainer import Plan, Trainer, planned_epochs
from mtl_runner.training import Training
from mtl_runner.weighting.base import Weighting
from mtl_runner.weighting.equal import Equal

Node = Mapping[str, Any]
ONE_ROW = "trainer.batch_size=1: batch normalisation needs two rows; take a larger batch, or an encoder without it"
BATCH_NORMS = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, StackedBatchNorm)
log = logging.getLogger(__name__)


def trainer_options(node: Node) -> TrainerConfig:
    """The checked ``trainer`` node, typed."""
    return TrainerConfig(**{**node, "early_stopping": EarlyStopping(**node["early_stopping"])})


def make_device(name: str) -> torch.device:
    """The device: ``auto`` takes CUDA, then Apple's, then the CPU.

    Raises:
        UserError: it is not there, or there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"trainer.device={name}: {str(error).splitlines()[0]}; allowed are auto, cpu, cuda, cuda:N, mps"
        ) from error
    return device


def check_combination(config: DictConfig | Node) -> None:
    """What can be seen to be impossible before any data is read; ``config`` has passed ``config.check``.

    Raises:
        UserError: the first impossible combination.
    """
    config = plain(config)
    allowed = config["allow_modules"]
    strategies = {name: plug(node, "imbalance", allowed) for name, node in (config["imbalance"] or {}).items() if node}
    _one_per_place({name: strategy.func.place for name, strategy in strategies.items()})  # type: ignore[attr-defined]
    trainer = config["trainer"]
    if trainer["epochs"] is None and trainer["steps"] is None:
        raise UserError("trainer.epochs and trainer.steps are both null: one of them has to be a number")
    if trainer["batch_size"] == 1 and config["encoder"].get("norm") == "batch":
        raise UserError(ONE_ROW)
    _check_optimizer(config)
    sharing: type[Sharing] = plug(config["sharing"], "sharing", allowed).func  # type: ignore[assignment]
    if _of_gradients(config) and not sharing.has_shared and not sharing.independent:
        raise UserError(_nothing_shared(config, f"sharing={_option(config['sharing'])} has none"))
    needs = plug(config["encoder"], "encoder", allowed).func.needs  # type: ignore[attr-defined]
    provides = plug(config["dataset"], "dataset", allowed).func.provides  # type: ignore[attr-defined]
    if needs and provides and not set(needs) & set(provides):
        chosen = (
            f"encoder={_option(config['encoder'])} reads {' or '.join(needs)}, "
            f"dataset={_option(config['dataset'])} has {choices(sorted(provides))}"
        )
        raise UserError(f"{chosen}; encoder=mlp reads any fields")


def _option(node: Node) -> str:
    """The name of a plug-in as users know it: that of its module."""
    return str(node["_target_"]).split(".")[-2]


def _of_gradients(config: Node) -> bool:
    """Whether the weighting looks at the tasks' gradients of what they share."""
    weighting: type[Weighting] = plug(config["weighting"], "weighting", config["allow_modules"]).func  # type: ignore[assignment]
    return weighting.needs in ("gramian", "jacobian")


def _nothing_shared(config: Node, reason: str) -> str:
    weighting = _option(config["weighting"])
    return (
        f"weighting={weighting} compares the tasks' gradients of the parameters that they share, and {reason}; "
        "sharing=hard has them, and weightings of the losses (equal, dynamic, uncertainty, …) need none"
    )


def _one_per_place(places: Mapping[str, str]) -> None:
    taken: dict[str, str] = {}
    for name, place in places.items():
        if (other := taken.setdefault(place, name)) != name:
            raise UserError(f"imbalance=[{other},{name}]: both act on the {place}, where only one can; choose one of them")


def make_strategies(config: Node, targets: Mapping[str, TargetSpec]) -> tuple[dict[str, Strategy], list[str]]:
    """The imbalance strategies by name, and what is to be said about the tasks that they leave alone.

    Raises:
        UserError: two at one place, a task that does not exist, or none that a strategy could serve.
    """
    allowed = config["allow_modules"]
    nodes = {name: node for name, node in (config["imbalance"] or {}).items() if node}
    strategies = {name: cast(Strategy, plug(node, "imbalance", allowed)()) for name, node in nodes.items()}
    notes = []
    _one_per_place({name: strategy.place for name, strategy in strategies.items()})
    for name, strategy in strategies.items():
        for task in strategy.tasks or ():
            if task not in targets:
                raise UserError(
                    f"imbalance.{name}.tasks: there is no task {task}; the tasks are {choices(targets)}{nearest(task, targets)}"
                )
        served = strategy.serves(targets)
        if not served:
            kinds = ", ".join(sorted(strategy.kinds))
            raise UserError(f"imbalance={name}: none of the tasks {choices(targets)} can be served; it is for {kinds} tasks")
        left = [task for task in targets if task not in served]
        if left:
            notes.append(f"imbalance={name} acts on {', '.join(served)}; {', '.join(left)} stay as they are")
    return strategies, notes


def make_model(
    config: Node,
    streams: Mapping[str, StreamSpec],
    targets: Mapping[str, TargetSpec],
    load: Callable[[Encoder], None] | None = None,
    trained: bool = False,
) -> MultiTaskModel:
    """The untrained model, on the CPU; the same seed gives the same weights. ``load`` may give each encoder other ones.

    One that is to take the weights of a ``trained`` one is made without the files that it started from.
    """
    seed, allowed = config["seed"], config["allow_modules"]
    tasks = make_tasks(targets)
    encoder_class = plug(config["encoder"], "encoder", allowed).func
    started = dict.fromkeys(encoder_class.initial if trained else ())  # type: ignore[attr-defined]
    make_encoder = plug({**config["encoder"], **started}, "encoder", allowed)

    def encoder(names: Sequence[str], name: str) -> Encoder:
        with seeded(seed, "encoder", name):
            made = cast(Encoder, make_encoder({stream: streams[stream] for stream in names}))
        if load is not None:
            load(made)
        return made

    make_sharing = plug(config["sharing"], "sharing", allowed)
    with seeded(seed, "sharing"):
        sharing: Sharing = make_sharing(encoder, {task.name: task.spec.stream for task in tasks})
    return MultiTaskModel(sharing, tasks, seed, _criteria(config, targets))


def _criteria(config: Node, targets: Mapping[str, TargetSpec]) -> dict[str, functools.partial[Criterion]]:
    """The factory of each task's criterion: one object for all the tasks that a strategy serves."""
    strategies, _ = make_strategies(config, targets)
    factories: dict[str, functools.partial[Criterion]] = {}
    for name, strategy in strategies.items():
        if isinstance(strategy, Criterion):
            factory = plug(config["imbalance"][name], "imbalance", config["allow_modules"])
            factories |= dict.fromkeys(strategy.serves(targets), factory)
    return factories


def make_weighting(config: Node, model: MultiTaskModel, network: Network) -> Weighting:
    """The weighting of a network's tasks.

    Where nothing couples tasks there is nothing to weigh, and it is ``equal``; so it is for a task alone where gradients
    would be compared.

    Raises:
        UserError: it compares gradients of shared parameters, and there are none.
    """
    with seeded(config["seed"], "weighting"):
        weighting = cast(Weighting, plug(config["weighting"], "weighting", config["allow_modules"])(list(model.order)))
    if model.sharing.independent or (_of_gradients(config) and len(network.tasks) == 1):
        return Equal(network.tasks)  # the other was made to see whether its keys make sense
    if _of_gradients(config) and not any(parameter.requires_grad for parameter in model.sharing.shared()):
        raise UserError(_nothing_shared(config, "here none is shared and trained"))
    return weighting


def make_learner(config: Node, options: TrainerConfig, network: Network, weighting: Weighting, epochs: int) -> Learner:
    """Optimizer, schedule and early stopping of one network."""
    optimizer, scheduler = _optimizer(config, [{"params": network.parameters()}, *weighting.parameter_groups()], epochs)
    stopping = options.early_stopping
    return Learner(network, optimizer, scheduler, options.clip_norm, Stopping(stopping.patience, stopping.min_delta))


def _optimizer(config: Node, groups: list[dict[str, Any]], epochs: int) -> tuple[Optimizer, LRScheduler | None]:
    optimizer = plug(config["optimizer"], "optimizer", config["allow_modules"])(groups)
    if not config["scheduler"]:
        return optimizer, None
    schedule = plug(config["scheduler"], "scheduler", config["allow_modules"])
    theirs = schedule.func.__module__.partition(".")[0] == "torch"  # torch's take the optimizer only
    return optimizer, schedule(optimizer) if theirs else schedule(optimizer, epochs)


def _check_optimizer(config: Node) -> None:
    """Try both on one parameter: they look at their values when they are made, a schedule at some only when it steps."""
    try:
        optimizer, scheduler = _optimizer(config, [{"params": [torch.nn.Parameter(torch.zeros(1))]}], epochs=2)
        optimizer.step()
        if isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step(0.0)
        elif scheduler is not None:
            scheduler.step()
    except (ValueError, TypeError, ArithmeticError) as error:
        made = [str(config[group]["_target_"]).rpartition(".")[2] for group in ("optimizer", "scheduler") if config[group]]
        raise UserError(f"{' with '.join(made)} cannot be made of these values: {error}") from error


def make_training(config: Node, options: TrainerConfig, data: Data, model: MultiTaskModel, device: torch.device) -> Training:
    """Everything that training needs, on the device; ``model`` is moved there."""
    seed = config["seed"]
    _check_monitor(options.early_stopping.monitor, model.tasks)
    strategies, _ = make_strategies(config, data.targets)
    resamplers = {name: strategy for name, strategy in strategies.items() if isinstance(strategy, Resampler)}
    if model.sharing.independent and _option(config["weighting"]) != "equal":
        log.info("note: nothing is shared, so weighting=%s plays no part", _option(config["weighting"]))
    elif _of_gradients(config) and len(model.tasks) == 1:
        log.info("note: one task alone shares nothing, so weighting=%s plays no part", _option(config["weighting"]))
    model.to(device)
    if options.batch_size == 1 and any(isinstance(module, BATCH_NORMS) for module in model.modules()):
        raise UserError(ONE_ROW)
    loader = IndexLoader(options.batch_size, seed, device)
    train, validation = data.splits["train"].to(device), data.splits["validation"].to(device)
    trainers = []
    for network in model.networks():
        targets = {name: data.targets[name] for name in network.tasks}
        rows = TrainingRows(train.only(network.tasks), targets, resamplers, seed)
        plan = Plan(
            planned_epochs(options.epochs, options.steps, loader.batches(rows.epoch(0))),
            options.steps,
            options.early_stopping.monitor,
            options.l1,
            options.precision,
            options.eval_batch_size,
            options.max_skipped,
            options.log_gradients_every,
        )
        weighting = make_weighting(config, model, network).to(device)
        learner = make_learner(config, options, network, weighting, plan.epochs)
        trainers.append(Trainer(model, learner, weighting, rows, validation.only(network.tasks), loader, plan))
        trainers[-1].fit_criteria()
    if options.log_gradients_every and not any(trainer.shared for trainer in trainers):
        log.info("note: no parameters are shared and trained, so trainer.log_gradients_every plays no part")
    return Training(model, trainers)


def _check_monitor(monitor: str, tasks: Sequence[Task]) -> None:
    allowed = ["average", *(task.name for task in tasks)]
    if monitor not in allowed:
        said = f"{choices(allowed)}{nearest(monitor, allowed)}"
        raise UserError(f"trainer.early_stopping.monitor={monitor}: there is no such task; allowed are {said}")
