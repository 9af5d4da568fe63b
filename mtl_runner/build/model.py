"""The model and its weighting from the configuration."""

from collections.abc import Callable, Mapping, Sequence
from typing import cast

from mtl_runner.batch import StreamSpec, TargetSpec
from mtl_runner.build.strategies import make_criteria, make_strategies
from mtl_runner.build.words import Node, nothing_shared, of_gradients
from mtl_runner.config import plug
from mtl_runner.encoders.base import Encoder
from mtl_runner.errors import NotApplicable
from mtl_runner.imbalance.base import SecondPhase
from mtl_runner.model import MultiTaskModel, Network
from mtl_runner.seeding import seeded
from mtl_runner.sharing.base import Sharing
from mtl_runner.tasks import make_tasks
from mtl_runner.weighting.base import Weighting
from mtl_runner.weighting.equal import Equal


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
    strategies = make_strategies(config)
    later = [task for each in strategies.values() if isinstance(each, SecondPhase) for task in each.serves(targets)]
    return MultiTaskModel(sharing, tasks, seed, make_criteria(config, targets), later)


def make_weighting(config: Node, model: MultiTaskModel, network: Network) -> Weighting:
    """The weighting of a network's tasks.

    Where nothing couples tasks there is nothing to weigh, and it is ``equal``; so it is for a task alone where gradients
    would be compared.

    Raises:
        NotApplicable: it compares gradients of shared parameters, and there are none.
    """
    with seeded(config["seed"], "weighting"):
        weighting = cast(Weighting, plug(config["weighting"], "weighting", config["allow_modules"])(list(model.order)))
    if model.sharing.independent or (of_gradients(config) and len(network.tasks) == 1):
        return Equal(network.tasks)  # the other was made to see whether its keys make sense
    if of_gradients(config) and not any(parameter.requires_grad for parameter in model.sharing.shared()):
        raise NotApplicable(nothing_shared(config, "here none is shared and trained"))
    return weighting
