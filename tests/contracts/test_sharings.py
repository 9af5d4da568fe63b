"""What every sharing mode promises with every encoder, on one input stream and on two."""

import io
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from handmade import TASKS, checkpoint, kind_of, made, options, same, trainer_on, training_on, two_streams, with_part
from omegaconf import DictConfig
from torch import Tensor, nn

from mtl_runner import build
from mtl_runner.batch import Batch, Data
from mtl_runner.config.schema import plain
from mtl_runner.errors import UserError
from mtl_runner.model import MultiTaskModel
from mtl_runner.sharing.hard import Hard
from mtl_runner.trainer import Trainer
from mtl_runner.weighting.gradients import ParameterGradients

ENCODERS = {
    "mlp": ["encoder.hidden=[7,5]"],
    "cnn": ["encoder.channels=[2,3]", "encoder.width=5"],
    "resnet": ["encoder.width=2"],
    "unet": ["encoder.channels=2", "encoder.depth=1"],
    "rnn": ["encoder.width=3", "encoder.embedding_size=4"],
    "transformer": ["encoder.width=4", "encoder.layers=2", "encoder.heads=2", "encoder.feedforward=2"],
    "ft_transformer": ["encoder.width=4", "encoder.layers=2", "encoder.heads=2", "encoder.hidden=6"],
    "embedding": ["encoder.size=3", "encoder.hidden=[7,5]"],
}
"""Small ones; an option that is not here is tested at its defaults."""
KINDS = {"images": ["cnn", "resnet", "unet"], "tokens": ["rnn", "transformer"], "table": ["ft_transformer", "embedding"]}
"""What an encoder is given to read; any other reads numbers."""
ALONE = {"pretrained": "reads a folder that the user names: tests/unit/test_encoder_pretrained.py"}
"""Encoders that are tested elsewhere, and why."""
VARIANTS = {
    "hard": ["sharing.shared_stages=0", "sharing.shared_stages=0.5", "sharing.shared_stages=1"],
    "mmoe": ["sharing.shared_stages=0.5"],
    "dselect_k": ["sharing.per_example=false", "sharing.experts=3"],
    "ple": ["sharing.levels=1"],
    "cross_stitch": ["sharing.per_channel=true", "sharing.last=false"],
    "shared_private": ["sharing.join=sum"],
    "adapters": ["sharing.kind=low_rank"],
    "clustered": [
        "sharing.groups=[[yes,sort],[size],[pair]]",
        "sharing.by=affinity sharing.warmup=1",
        "sharing.start=initial sharing.warmup=1",
    ],
    "task_relation": ["sharing.shared_stages=0.5"],
    "task_graph": [
        "sharing.edges={sort:[yes],size:[sort,yes]}",
        "sharing.edges={sort:[yes],size:[sort,yes]} sharing.shared_stages=0.5",
        "sharing.edges={sort:[yes],size:[sort,yes]} sharing.through=outputs",
        "sharing.edges={sort:[yes],size:[sort,yes]} sharing.through=outputs sharing.detach=false",
    ],
}
"""Further values of options that change which parameters are shared."""
NEEDS_ONE_STREAM = {"cross_stitch", "sluice", "task_graph"}
"""They compare or mix what tasks make of the same example."""
NAMING = ("sharing.edges", "sharing.groups")
"""Options that name tasks."""
WITHOUT_LINEAR = {"resnet", "unet", "rnn"}
"""Encoders whose stages have no matrix that adapters of low rank could be added to."""
DRAWN = {"ltb": 40}
"""Modes that draw each example's way, and how many draws show all ways."""
IDLE = {"ltb", "clustered"}
"""Modes with parameters that may rest: copies that were not drawn, a cluster's stem of a stream that none of its tasks reads."""
MODES = [
    (f"sharing={mode}", *more)
    for mode in options("sharing")
    for more in [(), *(tuple(variant.split(" ")) for variant in VARIANTS.get(mode, []))]
]
NOTHING_SHARED = {"soft", "low_rank", "joint_feature"}
"""Modes whose tasks have no parameter in common, though they train together."""


def name_of(mode: tuple[str, ...]) -> str:
    return mode[0].removeprefix("sharing=")


QUICK = ("mlp", "cnn", "transformer")
"""Vectors, maps and sequences."""


def tried(mode: tuple[str, ...], encoder: str, streams: str) -> bool:
    """Whether a pair is tested: all at their defaults, further values of options with vectors, and with maps on one stream."""
    several = name_of(mode) not in NEEDS_ONE_STREAM
    if encoder in ALONE or (streams == "two" and not several) or ("sharing.kind=low_rank" in mode and encoder in WITHOUT_LINEAR):
        return False
    if len(mode) > 1:
        return encoder == "mlp" or (encoder, streams) == ("cnn", "one")
    return encoder in QUICK or streams == ("two" if several else "one")


def quick(mode: tuple[str, ...], encoder: str, streams: str) -> bool:
    """Each mode and variant with vectors, each mode with maps or sequences, each encoder with hard sharing; the rest is slow."""
    if encoder == "mlp" or mode == ("sharing=hard",):
        return True
    other = QUICK[1 + options("sharing").index(name_of(mode)) % 2]
    return len(mode) == 1 and (encoder, streams) == (other, "one" if name_of(mode) in NEEDS_ONE_STREAM else "two")


PAIRS = [
    pytest.param(
        mode,
        encoder,
        streams,
        id=",".join([*(part.split("=", 1)[1] for part in mode), encoder, streams]),
        marks=[] if quick(mode, encoder, streams) else pytest.mark.slow,
    )
    for mode, encoder, streams in itertools.product(MODES, options("encoder"), ("one", "two"))
    if tried(mode, encoder, streams)
]
pairs = pytest.mark.parametrize(("mode", "encoder", "streams"), PAIRS)
modes = pytest.mark.parametrize("mode", MODES, ids=",".join)
Mode = tuple[str, ...]
Model = Callable[..., MultiTaskModel]


def data(streams: str, encoder: str) -> Data:
    kind = next((kind for kind, readers in KINDS.items() if encoder in readers), "numbers")
    return kind_of(kind, streams)


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


def gradients(loss: Tensor, parameters: list[nn.Parameter]) -> list[Tensor]:
    found = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


def readers(model: MultiTaskModel, data: Data, parameters: list[nn.Parameter]) -> list[Tensor]:
    """For each entry of the parameters the number of tasks whose loss depends on it, in one of some forward passes."""
    reached: dict[str, list[Tensor]] = {}
    for _ in range(DRAWN.get(type(model.sharing).__module__.rpartition(".")[2], 1)):
        for task, loss in losses(model, data).items():
            found = [gradient != 0 for gradient in gradients(loss, parameters)]
            reached[task] = [one | other for one, other in zip(reached.get(task, found), found, strict=True)]
    return [sum(each.int() for each in column) for column in zip(*reached.values(), strict=True)]  # type: ignore[misc]


@pairs
def test_shared_is_what_two_or_more_losses_reach(mode: Mode, encoder: str, streams: str, model: Model) -> None:
    """A tensor with an entry that two losses reach is shared; of the others every entry is a single task's."""
    rows = data(streams, encoder)
    network = model(rows, *mode, *small(encoder))
    parameters = list(network.parameters())
    counts = readers(network, rows, parameters)
    shared = network.sharing.shared()
    assert len(shared) == len({id(parameter) for parameter in shared})
    said = {name for name, parameter in network.named_parameters() if any(parameter is each for each in shared)}
    names = [name for name, _ in network.named_parameters()]
    assert said == {name for name, count in zip(names, counts, strict=True) if count.max() > 1}


@pairs
def test_features_have_the_shape_that_heads_expect_apart_or_not(mode: Mode, encoder: str, streams: str, model: Model) -> None:
    rows = data(streams, encoder)
    network = model(rows, *mode, *small(encoder)).eval()
    sharing, inputs = network.sharing, rows.splits["train"].inputs
    with torch.no_grad():
        boundary = sharing.trunk(inputs)
        for group in network.task_groups.values():
            size = len(next(iter(inputs[group.stream].values())))
            found = sharing.branch(group.names, boundary, inputs)
            assert found.shape in [(size, *sharing.features.shape), (len(group.names), size, *sharing.features.shape)]
            if len(group.names) > 1:
                own = tuple(value.expand(len(group.names), *value.shape) for value in boundary)
                apart = sharing.branch(group.names, own, inputs, apart=True)
                torch.testing.assert_close(apart, found.expand_as(apart))


@pairs
def test_the_gradient_of_each_task_is_autograds(
    mode: Mode, encoder: str, streams: str, model: Model, make_config: Callable[..., DictConfig]
) -> None:
    """By way of the copied boundary, with respect to what is shared, and of the rest where a task's own is wanted."""
    rows = data(streams, encoder)
    if not model(rows, *mode, *small(encoder)).sharing.shared():
        pytest.skip("nothing is shared")
    trainer = trainer_on(rows, make_config(*mode, *small(encoder), "weighting=mgda", "trainer.batch_size=16"))
    batch = next(trainer.loader.epoch(trainer.training_part(), 1))
    trainer.model.eval()  # two passes with the same masks and statistics
    plain_losses = torch.cat(_whole(trainer, batch))
    everything = [*trainer.shared, *trainer.private]
    expected = [gradients(loss, everything) for loss in plain_losses]
    trainer.model.zero_grad()
    objectives = trainer.objectives(batch)
    torch.autograd.backward(objectives.parts, [torch.ones_like(part) for part in objectives.parts], retain_graph=True)
    found = ParameterGradients(objectives)
    found.write_private(torch.ones(len(plain_losses)))
    shared = len(trainer.shared)
    for row, columns in zip(found.matrix, expected, strict=True):
        torch.testing.assert_close(row, torch.cat([column.flatten() for column in columns[:shared]]), atol=1e-5, rtol=1e-4)
    for parameter, columns in zip(trainer.private, list(zip(*expected, strict=True))[shared:], strict=True):
        own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(own, sum(columns), atol=1e-5, rtol=1e-4)


def _whole(trainer: Trainer, batch: Batch) -> list[Tensor]:
    """The losses of one plain forward pass."""
    outputs = trainer.model.outputs(batch.inputs, trainer.groups)
    return [group.losses(outputs[key], batch.targets[key], batch.weights.get(key))[0] for key, group in trainer.groups.items()]


@pairs
def test_every_mode_trains(mode: Mode, encoder: str, streams: str, make_config: Callable[..., DictConfig]) -> None:
    batches = ["trainer.batch_size=16", "trainer.eval_batch_size=20"]  # some of the shorter stream's have no row
    training = training_on(data(streams, encoder), make_config(*mode, *small(encoder), *batches))
    before = {name: value.clone() for name, value in training.model.named_parameters()}
    epochs = list(training.fit())
    assert len(epochs) == 2 and epochs[-1].step == 2 * (5 if streams == "two" else 4)
    assert all(f"validation/{task}/loss" in epochs[-1].metrics for task in TASKS)
    still = {name for name, value in training.model.named_parameters() if torch.equal(value, before[name])}
    assert not still or name_of(mode) in IDLE
    for table in training.model.sharing.tables().values():
        assert table.values.shape == (len(table.rows), len(table.columns)) and not table.values.isinf().any()


WITH_STATE = [mode for mode in MODES if name_of(mode) not in NOTHING_SHARED | {"none"} and "sharing.shared_stages=0" not in mode]
"""Modes that a weighting with a state of its own can be tried with: it needs something that is shared."""


@pytest.mark.parametrize(
    ("mode", "weighting"),
    [
        *(pytest.param(mode, "equal", id=",".join(mode)) for mode in MODES),
        *(
            pytest.param(mode, "moco", id=",".join([*mode, "moco"]), marks=[] if len(mode) == 1 else pytest.mark.slow)
            for mode in WITH_STATE
        ),
    ],
)
def test_a_resumed_run_goes_on_bit_by_bit(mode: Mode, weighting: str, make_config: Callable[..., DictConfig]) -> None:
    rows = data("one", "mlp")
    config = make_config(*mode, *small("mlp"), "encoder.dropout=0.2", f"weighting={weighting}", "trainer.epochs=3")
    whole = training_on(rows, config)
    list(whole.fit())
    first, second = training_on(rows, config), training_on(rows, config)
    epochs = first.fit()
    next(epochs), next(epochs)
    kept = io.BytesIO()
    torch.save(first.state_dict(), kept)
    kept.seek(0)
    second.load_state_dict(torch.load(kept, weights_only=True))
    list(second.fit())
    assert same(whole.model.state_dict(), second.model.state_dict())


@pytest.mark.parametrize("encoder", sorted(WITHOUT_LINEAR))
def test_adapters_of_low_rank_need_a_linear_layer(encoder: str, model: Model) -> None:
    with pytest.raises(UserError, match=r"sharing\.kind=low_rank"):
        model(data("one", encoder), "sharing=adapters", "sharing.kind=low_rank", *small(encoder))


@pytest.mark.parametrize("mode", sorted(NEEDS_ONE_STREAM))
def test_a_mode_that_needs_one_stream_says_so(mode: str, model: Model) -> None:
    with pytest.raises(
        UserError, match=rf"sharing={mode}: the tasks read 2 input streams \(left, right\), and it needs one: .+; sharing=hard"
    ):
        model(two_streams(), f"sharing={mode}")


@pytest.mark.parametrize("mode", [mode for mode in MODES if not any(key in " ".join(mode) for key in NAMING)], ids=",".join)
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
    assert len(sharing.own) == 3 - stages


def test_private_stages_start_as_the_tasks_own_encoder_does(model: Model) -> None:
    """The initial weights of what a task has to itself depend on its name alone, not on the mode."""
    hard, none = (model(made(), *mode) for mode in (("sharing=hard", "sharing.shared_stages=0.5"), ("sharing=none",)))
    (own,) = hard.sharing.own
    for weight, network in zip(own.layers[0].weight, none.sharing.networks, strict=True):
        assert torch.equal(weight, network.stages[1][0].weight)


@pytest.mark.parametrize(
    "encoder",
    [
        ["encoder=mlp", "encoder.hidden=[16,8]", "encoder.dropout=0.2"],
        pytest.param(["encoder=cnn", "encoder.channels=[4,6]", "encoder.width=12"], marks=pytest.mark.slow),
    ],
)
def test_soft_without_strength_is_none(encoder: list[str], train: Callable[..., Path]) -> None:
    common = [*encoder, "trainer.epochs=2", "trainer.early_stopping.patience=null", "dataset.only=[digit,parity]"]
    soft, none, pulled = (
        {name: value for name, value in checkpoint(train(*mode, *common), "last")["model"].items() if name.startswith("groups")}
        for mode in (["sharing=soft", "sharing.strength=0"], ["sharing=none"], ["sharing=soft", "sharing.strength=100"])
    )
    torch.testing.assert_close(soft, none, atol=1e-4, rtol=1e-3)  # networks that run as one round otherwise
    assert not all(torch.allclose(soft[name], pulled[name], atol=1e-3) for name in soft)


def test_frozen_shared_part_is_not_shared(make_config: Callable[..., DictConfig]) -> None:
    """Nothing adds up in what does not train: the heads then take their tasks' own gradients."""
    node = plain(make_config())
    assert len(trainer_on(made(), make_config()).shared) == 4
    frozen = build.make_model(node, made().streams, made().targets)
    for parameter in frozen.sharing.parameters():
        parameter.requires_grad_(False)
    (trainer,) = build.make_training(node, build.trainer_options(node["trainer"]), made(), frozen, torch.device("cpu")).trainers
    assert trainer.shared == []


@pytest.mark.parametrize(
    "weighting",
    [
        "mgda",
        "nash_mtl",
        "moco",
        "gradnorm",
        "graddrop",
        "famo",
        "modo",
        "upgrad",
        "mgda every=2",
        "modo every=2",
        "imtl every=3",
    ],
)
def test_training_goes_on_where_nothing_is_shared_any_more(weighting: str, make_config: Callable[..., DictConfig]) -> None:
    """Each task ends up in a cluster of its own."""
    clustered = ["sharing=clustered", "sharing.clusters=4", "sharing.warmup=1", "trainer.epochs=4", "encoder.hidden=[7,5]"]
    option, *keys = weighting.split()
    training = training_on(made(), make_config(*clustered, f"weighting={option}", *(f"weighting.{key}" for key in keys)))
    (trainer,) = training.trainers
    assert trainer.shared
    epochs = training.fit()
    next(epochs), next(epochs)
    assert not trainer.shared and len(trainer.private) == len(list(training.model.parameters()))
    before = [parameter.clone() for parameter in trainer.private]
    list(epochs)
    assert not any(torch.equal(one, other) for one, other in zip(before, trainer.private, strict=True))


@pytest.mark.parametrize("mode", ["mmoe", "cgc", "ple", "dselect_k", "mtan"])
def test_a_skipped_step_leaves_no_trace_in_what_is_shown(mode: str, make_config: Callable[..., DictConfig]) -> None:
    """One input that is not finite would make the means of an epoch NaN."""
    rows = made()
    numbers = rows.splits["train"].inputs["input"]["numeric"].clone()
    numbers[7] = torch.inf
    poisoned = with_part(rows, "train", inputs={"input": {"numeric": numbers}})
    more = ["sharing.norm=false"] if mode == "mtan" else []
    training = training_on(poisoned, make_config(f"sharing={mode}", *more, *small("mlp"), "trainer.batch_size=16"))
    last = list(training.fit())[-1].metrics
    assert last["skipped_steps"] == 2
    for table in training.model.sharing.tables().values():
        assert table.values.isfinite().any(1).all()
