"""Starting from an earlier run's shared part: what is loaded, what stays frozen, what is refused."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mtl_runner import checkpoint
from mtl_runner.batch import Data, StreamSpec, TargetSpec
from mtl_runner.encoders.base import Encoder
from mtl_runner.encoders.mlp import MLP
from mtl_runner.errors import UserError
from mtl_runner.folder import RunFolder
from mtl_runner.model import MultiTaskModel
from mtl_runner.pretrained import Start
from mtl_runner.seeding import seeded
from mtl_runner.sharing.hard import Hard
from mtl_runner.sharing.none import NoSharing
from mtl_runner.sharing.soft import Soft
from mtl_runner.tasks import make_tasks

STREAM = StreamSpec(
    {"numeric": (3,), "categorical": (1,)}, (4,), {"numeric": ("age", "height", "weight"), "categorical": ("town",)}
)
PREPARATION: dict[str, Any] = {"categories": [{"name": "town", "vocabulary": ["Rome", "Oslo", "Bonn"]}]}
OLD = {"a": TargetSpec("binary", classes=("0", "1")), "b": TargetSpec("regression", columns=("b",))}
NEW = {"c": TargetSpec("multiclass", classes=("x", "y", "z")), "d": TargetSpec("binary", classes=("0", "1"))}
ENCODER: dict[str, Any] = {"hidden": (8, 6), "norm": "batch", "dropout": 0.3}


def data_of(targets: Mapping[str, TargetSpec], stream: StreamSpec = STREAM, preparation: Mapping[str, Any] = PREPARATION) -> Data:
    return Data({}, {"input": stream}, targets, preparation)


def model_of(
    targets: Mapping[str, TargetSpec],
    mode: Any = Hard,
    seed: int = 0,
    mode_options: Any = None,
    start: Start | None = None,
    **encoder: Any,
) -> MultiTaskModel:
    def make(streams: Sequence[str], name: str) -> Encoder:
        with seeded(seed, "encoder", name):
            made = MLP(dict.fromkeys(streams, STREAM), **(ENCODER | encoder))
        if start is not None:
            start.load(made)
        return made

    tasks = make_tasks(targets)
    return MultiTaskModel(mode(make, dict.fromkeys(targets, "input"), **(mode_options or {})), tasks, seed, {})


def batch(rows: int = 16) -> dict[str, dict[str, Tensor]]:
    draws = torch.Generator().manual_seed(0)
    return {
        "input": {"numeric": torch.randn(rows, 3, generator=draws), "categorical": torch.randint(4, (rows, 1), generator=draws)}
    }


def features(encoder: Encoder) -> Tensor:
    return encoder.eval()("input", batch()["input"])  # type: ignore[no-any-return]


@pytest.fixture
def earlier(tmp_path: Path) -> Callable[..., tuple[str, MultiTaskModel]]:
    """Makes a finished run of a model that was trained for a moment: its folder, and the model."""

    def make(mode: Any = Hard, mode_options: Any = None, **encoder: Any) -> tuple[str, MultiTaskModel]:
        model = model_of(OLD, mode, seed=1, mode_options=mode_options, **encoder).train()
        sum(value.square().mean() for value in model(batch()).values()).backward()  # type: ignore[union-attr]
        torch.optim.SGD(model.parameters(), lr=0.1).step()
        folder = RunFolder(tmp_path / "earlier")
        folder.path.mkdir()
        folder.write_data(data_of(OLD))
        (folder.path / "config.yaml").write_text("name: earlier\n")
        folder.status(state="finished")
        checkpoint.save(model.state_dict(), folder.best)
        return str(folder.path), model

    return make


@pytest.mark.parametrize("mode", [Hard, NoSharing, Soft])
@pytest.mark.parametrize("targets", [OLD, NEW])
def test_every_encoder_starts_where_the_shared_one_ended_and_the_heads_do_not(earlier: Any, mode: Any, targets: Any) -> None:
    run, old = earlier()
    start = Start(data_of(targets), run)
    model, fresh = model_of(targets, mode, start=start), model_of(targets, mode)
    inputs, expected = batch(), features(old.sharing.encoder)
    model.eval()
    for task in targets:
        reached = model.sharing.branch([task], model.sharing.trunk(inputs), inputs)
        torch.testing.assert_close(reached.view_as(expected), expected)
    model.train()
    for name, value in model.groups.state_dict().items():
        assert torch.equal(value, fresh.groups.state_dict()[name])
    assert all(parameter.requires_grad for parameter in model.parameters())
    loaded = sum(parameter.numel() for parameter in old.sharing.encoder.parameters())
    assert start.line() == f"note: {loaded:,} parameters of each encoder start from {run}"


def test_dropout_begins_its_own_sequence_and_does_not_go_on_with_the_earlier_runs(earlier: Any) -> None:
    run, _ = earlier()
    model, fresh = model_of(NEW, start=Start(data_of(NEW), run)), model_of(NEW)
    ones = torch.ones(200)
    for stage, other in zip(model.sharing.encoder.stages, fresh.sharing.encoder.stages, strict=True):
        assert torch.equal(stage[3].train()(ones), other[3].train()(ones))


@pytest.mark.parametrize("mode", [Hard, NoSharing, Soft])
def test_what_is_frozen_is_the_same_after_training_and_the_rest_is_not(earlier: Any, mode: Any) -> None:
    run, _ = earlier()
    start = Start(data_of(NEW), run, frozen=True)
    model = model_of(NEW, mode, start=start)
    assert start.line().endswith("and stay frozen")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trained = [parameter for network in model.networks() for parameter in network.parameters()]
    heads = list(model.groups.parameters())
    assert {id(parameter) for parameter in trained} == {id(parameter) for parameter in heads}
    optimizer = torch.optim.AdamW(trained, lr=0.1, weight_decay=0.5)
    model.train()
    for _ in range(3):
        optimizer.zero_grad()
        loss = sum(value.square().mean() for value in model(batch()).values())
        penalty = model.sharing.penalty()
        (loss if penalty is None else loss + penalty).backward()
        optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {f"groups.{name}" for name, _ in model.groups.named_parameters()}  # no batch statistics, no masks either


def test_a_run_that_shared_some_stages_gives_those_and_the_others_are_trained(earlier: Any) -> None:
    run, old = earlier(mode_options={"shared_stages": 0.5})
    model = model_of(NEW, start=Start(data_of(NEW), run, frozen=True))
    first, second = model.sharing.encoder.stages
    assert torch.equal(first[0].weight, old.sharing.encoder.stages[0][0].weight) and not first[0].weight.requires_grad
    assert torch.equal(second[0].weight, model_of(NEW).sharing.encoder.stages[1][0].weight) and second[0].weight.requires_grad


def test_a_model_with_fewer_shared_stages_takes_the_first_ones(earlier: Any) -> None:
    run, old = earlier()
    model = model_of(NEW, mode_options={"shared_stages": 0.5}, start=Start(data_of(NEW), run))
    assert torch.equal(model.sharing.encoder.stages[0][0].weight, old.sharing.encoder.stages[0][0].weight)


def test_a_centre_of_soft_sharing_starts_there_too(earlier: Any) -> None:
    run, _ = earlier()
    model = model_of(NEW, Soft, mode_options={"to": "center"}, start=Start(data_of(NEW), run))
    assert model.sharing.penalty().item() == pytest.approx(0, abs=1e-9)


# ---- what is refused ----------------------------------------------------------------------------------------------


def test_centre_and_scale_of_the_numbers_may_differ(earlier: Any) -> None:
    run, _ = earlier()
    Start(data_of(NEW, preparation=PREPARATION | {"numbers": [{"name": "age", "center": 5}]}), run)


@pytest.mark.parametrize(
    ("stream", "preparation", "said"),
    [
        (replace(STREAM, fields={"numeric": (4,)}), PREPARATION, r"'numeric': \(3,\).*here.*'numeric': \(4,\)"),
        (
            replace(STREAM, names=STREAM.names | {"numeric": ("age", "width", "weight")}),
            PREPARATION,
            "column height, here there is width",
        ),
        (
            STREAM,
            {"categories": [{"name": "town", "vocabulary": ["Oslo", "Rome", "Bonn"]}]},
            "categories of its inputs are others",
        ),
    ],
)
def test_other_inputs_are_refused_and_the_message_says_what_differs(
    earlier: Any, stream: StreamSpec, preparation: Any, said: str
) -> None:
    run, _ = earlier()
    with pytest.raises(UserError, match=rf"init_from\.run=.*{said}"):
        Start(data_of(NEW, stream, preparation), run)


def test_another_stream_is_refused(earlier: Any) -> None:
    run, _ = earlier()
    with pytest.raises(UserError, match="its input streams are input, and there is no picture among them"):
        Start(Data({}, {"picture": STREAM}, NEW, PREPARATION), run)


@pytest.mark.parametrize("mode", [NoSharing, Soft])
def test_a_run_without_a_shared_part_is_refused(earlier: Any, mode: Any) -> None:
    run, _ = earlier(mode)
    with pytest.raises(UserError, match="has no shared part; one that was trained with sharing=hard has"):
        Start(data_of(NEW), run)


@pytest.mark.parametrize(
    ("there", "here", "said"),
    [
        ({}, {"hidden": (9, 6)}, r"stages\.0\.0\.weight is \(8, \d+\) there and \(9, \d+\) here"),
        ({}, {"embedding_size": 7}, r"stems\.input\.embeddings\.0\.weight is \(4, \d+\) there and \(4, 7\) here"),
        ({}, {"norm": "none"}, r"stages\.0\.1\.\w+ is \(8,\) there and absent here"),
        ({"norm": "none"}, {}, r"stages\.0\.1\.\w+ is absent there and \(8,\) here"),
    ],
)
def test_another_encoder_is_refused(earlier: Any, there: Any, here: Any, said: str) -> None:
    run, _ = earlier(**there)
    start = Start(data_of(NEW), run)
    with pytest.raises(UserError, match=rf"its encoder is another one \({said}\); use the same encoder options"):
        model_of(NEW, start=start, **here)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        Start(data_of(NEW), str(tmp_path / "nowhere"))


# ---- as a user does it --------------------------------------------------------------------------------------------


def test_a_frozen_start_on_other_tasks_end_to_end(train: Callable[..., Path]) -> None:
    encoder = ("encoder.dropout=0.2", "encoder.norm=batch", "trainer.epochs=1")
    first = train("dataset.only=[digit,reconstruction]", *encoder)
    second = train("dataset.only=[digit,parity]", f"init_from={{run: '{first}', frozen: true}}", *encoder)
    before, after = (checkpoint.load(RunFolder(folder).best) for folder in (first, second))
    shared = [name for name in before if name.startswith("sharing.encoder.") and not name.endswith("_extra_state")]
    assert shared and all(torch.equal(before[name], after[name]) for name in shared)


def test_another_activation_is_refused(earlier: Callable[..., tuple[str, MultiTaskModel]]) -> None:
    """Every shape agrees, and the features would mean nothing."""
    run, _ = earlier()
    (Path(run) / "config.yaml").write_text("name: earlier\nencoder: {activation: tanh, dropout: 0.1}\n")
    Start(data_of(NEW), run, encoder={"activation": "tanh", "dropout": 0.5})
    with pytest.raises(UserError, match=r"encoder\.activation is tanh there and relu here"):
        Start(data_of(NEW), run, encoder={"activation": "relu", "dropout": 0.1})
