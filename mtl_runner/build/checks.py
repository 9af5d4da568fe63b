"""What can be seen to be impossible before any data is read."""

import typing
from collections.abc import Mapping

import torch
from omegaconf import DictConfig
from torch.optim.lr_scheduler import ReduceLROnPlateau

from mtl_runner.build.optimizing import make_optimizer
from mtl_runner.build.strategies import one_per_place, other_fields
from mtl_runner.build.words import Node, nothing_shared, of_gradients, option
from mtl_runner.config import plug
from mtl_runner.config.schema import plain
from mtl_runner.config.values import complaints
from mtl_runner.datasets.kinds import KINDS
from mtl_runner.errors import NotApplicable, UserError, choices
from mtl_runner.sharing.base import Sharing
from mtl_runner.tasks import task_class

ONE_ROW = "trainer.batch_size=1: batch normalisation needs two rows; take a larger batch, or an encoder without it"


def check_combination(config: DictConfig | Node) -> None:
    """What can be seen to be impossible before any data is read; ``config`` has passed ``config.check``.

    Raises:
        UserError: a value can never be.
        NotApplicable: the first combination that is impossible.
    """
    config = plain(config)
    trainer, allowed = config["trainer"], config["allow_modules"]
    if trainer["epochs"] is None and trainer["steps"] is None:
        raise UserError("trainer.epochs and trainer.steps are both null: one of them has to be a number")
    _check_optimizer(config)
    _check_tasks(config["dataset"].get("tasks"))
    strategies = {name: plug(node, "imbalance", allowed) for name, node in (config["imbalance"] or {}).items() if node}
    one_per_place({name: strategy.func.place for name, strategy in strategies.items()})  # type: ignore[attr-defined]
    fields = plug(config["dataset"], "dataset", allowed).func.provides  # type: ignore[attr-defined]
    for name, strategy in strategies.items():
        if (works_on := strategy.func.needs) and fields and not works_on & fields:  # type: ignore[attr-defined]
            raise NotApplicable(other_fields(name, works_on, fields, f"dataset={option(config['dataset'])} has"))
    if trainer["batch_size"] == 1 and config["encoder"].get("norm") == "batch":
        raise NotApplicable(ONE_ROW)
    sharing: type[Sharing] = plug(config["sharing"], "sharing", allowed).func  # type: ignore[assignment]
    if of_gradients(config) and not sharing.has_shared and not sharing.independent:
        raise NotApplicable(nothing_shared(config, f"sharing={option(config['sharing'])} has none"))
    needs = plug(config["encoder"], "encoder", allowed).func.needs  # type: ignore[attr-defined]
    provides = plug(config["dataset"], "dataset", allowed).func.provides  # type: ignore[attr-defined]
    if needs and provides and not set(needs) & set(provides):
        chosen = (
            f"encoder={option(config['encoder'])} reads {' or '.join(needs)}, "
            f"dataset={option(config['dataset'])} has {choices(sorted(provides))}"
        )
        raise NotApplicable(f"{chosen}; encoder=mlp reads any fields")


def _check_tasks(tasks: object) -> None:
    """The values of what the types of the tasks can be told; their names are known to the data set, and checked there.

    Where no type is given, a value is refused that none of the types that know its key takes.
    """
    for name, options in tasks.items() if isinstance(tasks, Mapping) else ():
        if not isinstance(options, Mapping):
            continue
        if (kind := options.get("type")) is not None:
            task_class(name, str(kind))
        lines: list[str] = []
        for key, value in options.items():
            able = [each for each, own in KINDS.items() if key in own and kind in (None, each)]
            said = [_complaints(name, each, key, value) for each in able]
            lines += said[0] if said and all(said) else []
        if lines:
            raise UserError("\n".join(lines))


def _complaints(name: str, kind: str, key: str, value: object) -> list[str]:
    hints = typing.get_type_hints(task_class(name, kind).__init__, include_extras=True)
    return complaints(f"dataset.tasks.{name}.{key}", value, hints[key])


def _check_optimizer(config: Node) -> None:
    """Try both on one parameter: they look at their values when they are made, a schedule at some only when it steps."""
    try:
        optimizer, scheduler = make_optimizer(config, [{"params": [torch.nn.Parameter(torch.zeros(1))]}], epochs=2)
        optimizer.step()
        if isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step(0.0)
        elif scheduler is not None:
            scheduler.step()
    except (ValueError, TypeError, ArithmeticError) as error:
        made = [str(config[group]["_target_"]).rpartition(".")[2] for group in ("optimizer", "scheduler") if config[group]]
        raise UserError(f"{' with '.join(made)} cannot be made of these values: {error}") from error
