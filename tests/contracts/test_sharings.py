"""What every sharing mode promises with every encoder, on one input stream and on two."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from handmade import TASKS, checkpoint, made, options, same, trainer_on, training_on, two_streams
from omegaconf import DictConfig
from torch import Tensor, nn

from mtl_runner import build
from mtl_runner.batch import Data
from mtl_runner.config.schema import plain
from mtl_runner.model import MultiTaskModel
from mtl_runner.sharing.hard import Hard

ENCODERS = {"mlp": ["encoder.hidden=[7,5]"], "cnn": ["encoder.channels=[2,3]", "encoder.width=5"]}
"""Small ones; an option that is not here is tested at its defaults."""
DEPTHS = {"hard": ["sharing.shared_stages=0", "sharing.shared_stages=0.5", "sharing.shared_stages=1"]}
MODES = [
    (f"sharing={mode}", *more) for mode in options("sharing") for more in [(), *((depth,) for depth in DEPTHS.get(mode, []))]
]
modes = pytest.mark.parametrize("mode", MODES, ids=",".join)
encoders = pytest.mark.parametrize("encoder", options("encoder"))
data_sets = pytest.mark.parametrize("streams", ["one", "two"])
Model = Callable[..., MultiTaskModel]


def data(streams: str, encoder: str) -> Data:
    image = encoder == "cnn"
    if streams == "two":
        return two_streams(image)
    return made(fields={"input": (1, 6, 6) if image else (6,)})


def small(encoder: str) -> list[str]:
    return [f"encoder={encoder}", *ENCODERS.get(encoder, [])]


@pytest.fixture
def model(make_config: Callable[..., DictConfig]) -> Model:
    def make(data: Data, *overrides: str) -> MultiTaskModel:
        return build.make_model(plain(make_config(*overrides)), data.streams, data.targets)

    return make


def losses(model: MultiTaskModel, data: Data) -> dict[str, Tensor]:
    """A scalar of every task that depends on all of its outputs."""
    return {name: outputs.pow(2).mean() for name, outputs in model(data.splits["train"].inputs).items()}


def gradients(loss: Tensor, parameters: list[nn.Parameter]) -> list[Tensor | None]:
    return list(torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True))


@modes
@encoders
@data_sets
def test_shared_is_what_two_or_more_losses_reach(mode: tuple[str, ...], encoder: str, streams: str, model: Model) -> None:
    rows = data(streams, encoder)
    network = model(rows, *mode, *small(encoder))
    parameters = list(network.sharing.parameters())
    reached = [gradients(loss, parameters) for loss in losses(network, rows).values()]
    counts = [sum(gradient is not None for gradient in column) for column in zip(*reached, strict=True)]
    shared = network.sharing.shared()
    assert len(shared) == len({id(parameter) for parameter in shared})
    assert {id(parameter) for parameter in shared} == {id(p) for p, n in zip(parameters, counts, strict=True) if n > 1}


@modes
@encoders
@data_sets
def test_a_loss_never_reaches_another_tasks_private_part(mode: tuple[str, ...], encoder: str, streams: str, model: Model) -> None:
    rows = data(streams, encoder)
    network = model(rows, *mode, *small(encoder))
    shared = {id(parameter) for parameter in network.sharing.shared()}
    private = [parameter for parameter in network.parameters() if id(parameter) not in shared]
    reached = [gradients(loss, private) for loss in losses(network, rows).values()]
    for parameter, column in zip(private, zip(*reached, strict=True), strict=True):
        touched = sum((gradient != 0).int() for gradient in column if gradient is not None)
        assert isinstance(touched, int) or touched.max() <= 1, tuple(parameter.shape)


@modes
@encoders
@data_sets
def test_every_mode_trains(mode: tuple[str, ...], encoder: str, streams: str, make_config: Callable[..., DictConfig]) -> None:
    training = training_on(data(streams, encoder), make_config(*mode, *small(encoder), "trainer.batch_size=16"))
    before = {name: value.clone() for name, value in training.model.named_parameters()}
    epochs = list(training.fit())
    assert len(epochs) == 2 and epochs[-1].step == 2 * (5 if streams == "two" else 4)
    assert all(f"validation/{task}/loss" in epochs[-1].metrics for task in TASKS)
    moved = [name for name, value in training.model.named_parameters() if not torch.equal(value, before[name])]
    assert len(moved) == len(before)


@modes
def test_a_task_alone_needs_no_sharing(mode: tuple[str, ...], model: Model) -> None:
    rows = made({"yes": made().targets["yes"]})
    network = model(rows, *mode)
    assert network.sharing.shared() == []
    assert list(network(rows.splits["test"].inputs)) == ["yes"]


def linear(inputs: int, outputs: int) -> int:
    return (inputs + 1) * outputs


MLP = linear(6, 7) + linear(7, 5)
CNN = (9 * 1 * 2 + 2 + 2 * 2) + (9 * 2 * 3 + 3 + 2 * 3) + linear(3, 5)  # 6 × 6 pooled twice is 1 × 1
HEADS = linear(5, 1) + linear(5, 3) + linear(5, 1) + linear(5, 2)


@pytest.mark.parametrize(
    ("mode", "encoder", "shared", "own"),
    [
        ("sharing=hard", "mlp", MLP, 0),
        ("sharing=hard sharing.shared_stages=0.5", "mlp", linear(6, 7), 4 * linear(7, 5)),
        ("sharing=hard sharing.shared_stages=0", "mlp", 0, 4 * MLP),
        ("sharing=hard", "cnn", CNN, 0),
        ("sharing=hard sharing.shared_stages=0.67", "cnn", CNN - linear(3, 5), 4 * linear(3, 5)),
        ("sharing=none", "mlp", 0, 4 * MLP),
        ("sharing=none", "cnn", 0, 4 * CNN),
        ("sharing=soft", "mlp", 0, 4 * MLP),
        ("sharing=soft sharing.to=center", "mlp", 0, 5 * MLP),
        ("sharing=soft sharing.to=pairs", "cnn", 0, 4 * CNN),
    ],
)
def test_parameter_counts(mode: str, encoder: str, shared: int, own: int, model: Model) -> None:
    sizes = model(data("one", encoder), *mode.split(), *small(encoder)).sizes()
    assert sizes == {"shared": shared, "task encoders": own, "heads": HEADS, "total": shared + own + HEADS}


def test_parameter_count_of_two_streams(model: Model) -> None:
    rows = two_streams()
    left, right = linear(6, 7), linear(3, 7)  # vectors of different width meet in the first layer's space
    stages = linear(7, 7) + linear(7, 5)
    assert model(rows, "sharing=hard", *small("mlp")).sizes()["shared"] == right + stages
    assert model(rows, "sharing=hard", "sharing.shared_stages=0", *small("mlp")).sizes()["task encoders"] == left + 4 * stages
    separate = (linear(6, 7) + linear(7, 5)) + 3 * (linear(3, 7) + linear(7, 5))
    assert model(rows, "sharing=none", *small("mlp")).sizes()["task encoders"] == separate


@pytest.mark.parametrize(("proportion", "stages"), [(0, 0), (0.3, 1), (0.5, 2), (0.9, 3), (1, 3)])
def test_shared_stages_is_a_proportion_of_the_stages(proportion: float, stages: int, model: Model) -> None:
    sharing = model(made(), "sharing=hard", f"sharing.shared_stages={proportion}", "encoder.hidden=[4,4,4]").sharing
    assert isinstance(sharing, Hard)
    assert len(sharing.encoder.stages) == stages
    assert [len(own) for own in sharing.own] == ([3 - stages] * 4 if stages < 3 else [])


def test_private_stages_start_as_the_tasks_own_encoder_does(model: Model) -> None:
    """The initial weights of what a task has to itself depend on its name alone, not on the mode."""
    hard, none = (model(made(), *mode) for mode in (("sharing=hard", "sharing.shared_stages=0.5"), ("sharing=none",)))
    for own, network in zip(hard.sharing.own, none.sharing.networks, strict=True):
        assert same(own[0].state_dict(), network.stages[1].state_dict())


@pytest.mark.parametrize(
    "encoder",
    [
        ["encoder=mlp", "encoder.hidden=[16,8]", "encoder.dropout=0.2"],
        ["encoder=cnn", "encoder.channels=[4,6]", "encoder.width=12"],
    ],
)
def test_soft_without_strength_is_none(encoder: list[str], train: Callable[..., Path]) -> None:
    common = [*encoder, "trainer.epochs=2", "trainer.early_stopping.patience=null", "dataset.only=[digit,parity]"]
    soft, none = (
        checkpoint(train(*mode, *common), "last")["model"] for mode in (["sharing=soft", "sharing.strength=0"], ["sharing=none"])
    )
    assert same(soft, none)
    assert not same(soft, checkpoint(train("sharing=soft", "sharing.strength=0.1", *common), "last")["model"])


@pytest.mark.parametrize(("norm", "to"), [*itertools.product(["l1", "l2"], ["centroid", "center", "pairs"])])
@data_sets
def test_soft_penalty_is_its_formula(norm: str, to: str, streams: str, model: Model) -> None:
    """Against loops over tasks and pairs, in float64."""
    rows = data(streams, "mlp")
    sharing = model(rows, "sharing=soft", f"sharing.norm={norm}", f"sharing.to={to}", "sharing.strength=0.7").sharing
    with torch.no_grad():
        for parameter in sharing.center:
            parameter.add_(0.1)

    def size(difference: Tensor) -> Tensor:
        return difference.abs().sum() if norm == "l1" else difference.square().sum()

    def penalty(values: list[Tensor], center: list[Tensor]) -> Tensor:
        if to == "pairs":
            return sum((size(a - b) for a, b in itertools.combinations(values, 2)), torch.zeros(()))
        anchor = center[0] if to == "center" else torch.stack(values).mean(0)
        return sum((size(value - anchor) for value in values), torch.zeros(()))

    networks, places = sharing.encoders(), list(sharing.streams.values())
    matched = [*zip(*(network.stages.parameters() for network in networks), strict=True)]
    for stream in sorted(set(places)):
        stems = [network.stems[stream] for network, place in zip(networks, places, strict=True) if place == stream]
        matched += zip(*(stem.parameters() for stem in stems), strict=True) if len(stems) > 1 else []
    expected, centers = torch.zeros((), dtype=torch.float64), list(sharing.center)
    for values in matched:
        center = [centers.pop(0).detach().double()] if to == "center" else []
        expected += penalty([value.detach().double() for value in values], center)
    assert not centers
    assert sharing.penalty().item() == pytest.approx(0.7 * expected.item(), rel=1e-5)
    assert len(matched) == (6 if streams == "two" else 4) and expected > 0


def test_frozen_shared_part_is_not_shared(make_config: Callable[..., DictConfig]) -> None:
    """Nothing adds up in what does not train: the heads then take their tasks' own gradients."""
    node = plain(make_config())
    assert len(trainer_on(made(), make_config()).shared) == 4
    frozen = build.make_model(node, made().streams, made().targets)
    for parameter in frozen.sharing.parameters():
        parameter.requires_grad_(False)
    (trainer,) = build.make_training(node, build.trainer_options(node["trainer"]), made(), frozen, torch.device("cpu")).trainers
    assert trainer.shared == []
