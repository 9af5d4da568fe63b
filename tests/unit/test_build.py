"""Combinations that are refused before any data is read, and objects that are made as they were asked for."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from handmade import TASKS, kind_of, made, trainer_on, training_on
from omegaconf import DictConfig

from mtl_runner import build
from mtl_runner.batch import StreamSpec, TargetSpec
from mtl_runner.config.schema import plain
from mtl_runner.encoders.stems import VectorStem
from mtl_runner.errors import UserError
from mtl_runner.predictions import check_names

Config = Callable[..., DictConfig]


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["optimizer.lr=-1"], "learning rate"),
        (["optimizer=sgd", "optimizer.momentum=0", "optimizer.nesterov=true"], "Nesterov"),
        (["scheduler=plateau", "scheduler.factor=1.5"], "Factor"),
        (["scheduler=step", "scheduler.step_size=0"], "StepLR"),
        (["encoder=cnn", "trainer.batch_size=1"], "batch normalisation"),
        (["trainer.epochs=null"], "both null"),
        (["encoder=cnn", "dataset=synthetic"], "reads image"),
        (["imbalance=[focal,class_weights]"], "both act on the loss"),
        (["dataset=table", "dataset.path=no.csv", "dataset.tasks={a:{type:regression,loss:hubber}}"], "a.loss=hubber: .*'huber'"),
    ],
)
def test_what_cannot_work_is_refused_before_any_data_is_read(typed: list[str], said: str, make_config: Config) -> None:
    with pytest.raises(UserError, match=said) as caught:
        build.check_combination(make_config(*typed))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("scheduler", ["none", "cosine", "step", "plateau"])
@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
def test_defaults_are_accepted(optimizer: str, scheduler: str, make_config: Config) -> None:
    build.check_combination(make_config(f"optimizer={optimizer}", f"scheduler={scheduler}"))


def test_a_schedule_of_ones_own_gets_the_planned_epochs(
    make_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_schedule.py").write_text("from mtl_runner.schedulers import Cosine\n\n\nclass Mine(Cosine):\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    config = make_config("scheduler=cosine", "scheduler._target_=my_schedule.Mine", "allow_modules=[my_schedule]")
    build.check_combination(config)
    scheduler = trainer_on(made(), config).learner.scheduler
    assert type(scheduler).__name__ == "Mine" and scheduler.epochs == 2


def test_an_unseen_category_is_nothing_rather_than_noise() -> None:
    """No training row has index 0, so its vector stays what it is at the start: zero, whatever the seed."""
    stem = VectorStem(StreamSpec({"categorical": (2,)}, (5, 3)))
    assert not stem({"categorical": torch.zeros(4, 2, dtype=torch.long)}).any()
    assert stem({"categorical": torch.ones(4, 2, dtype=torch.long)}).abs().min() > 0


def test_predictions_of_two_tasks_have_different_names() -> None:
    check_names(TASKS)
    clash = {"y": TargetSpec("binary", classes=("no", "yes")), "y_probability": TargetSpec("regression")}
    with pytest.raises(UserError, match=r"average is what the mean over the tasks is called"):
        check_names({"average": TargetSpec("regression")})
    with pytest.raises(UserError, match=r"y and y_probability both predict a column y_probability"):
        check_names(clash)


def test_no_device_of_that_name() -> None:
    with pytest.raises(UserError, match=r"trainer\.device=gpu: .*allowed are auto, cpu"):
        build.make_device("gpu")
    assert build.make_device("cpu").type == "cpu"


def test_the_penalty_free_loss_at_the_start_is_that_of_guessing(make_config: Config) -> None:
    """A network that knows nothing: cross-entropy near log C."""
    trainer = trainer_on(made(), make_config())
    losses = dict(zip(trainer.names, trainer.objectives(trainer.training_part()).losses.tolist(), strict=True))
    assert losses["yes"] == pytest.approx(math.log(2), rel=0.2) and losses["sort"] == pytest.approx(math.log(3), rel=0.2)


def test_a_batch_of_one_row_is_refused_wherever_batches_are_normalised(make_config: Config) -> None:
    rows = kind_of("images", "one")
    with pytest.raises(UserError, match=r"trainer\.batch_size=1: batch normalisation needs two rows"):
        training_on(rows, make_config("encoder=resnet", "encoder.width=2", "trainer.batch_size=1"))
    with pytest.raises(UserError, match=r"trainer\.batch_size=1: batch normalisation needs two rows"):
        training_on(made(), make_config("sharing=soft", "encoder.hidden=[4,4]", "encoder.norm=batch", "trainer.batch_size=1"))


def test_a_trained_model_is_made_without_the_file_that_it_started_from(make_config: Config, tmp_path: Path) -> None:
    rows = kind_of("images", "one")
    node = plain(make_config("encoder=resnet", "encoder.width=2", f"encoder.weights={tmp_path}/gone.pt"))
    with pytest.raises(UserError, match="gone"):
        build.make_model(node, rows.streams, rows.targets)
    assert build.make_model(node, rows.streams, rows.targets, trained=True).sizes()["shared"] > 0
