"""Norms, cosines and conflicts are those of plain autograd, counted where they have a meaning, and change nothing."""

import json
from collections.abc import Callable
from math import isnan
from pathlib import Path
from typing import Any

import pytest
import torch
from handmade import TASKS, checkpoint, made, same, trainer_on, training_on, with_part
from omegaconf import DictConfig
from torch import Tensor
from torch.nn.functional import cosine_similarity

from mtl_runner import run
from mtl_runner.gradient_statistics import GradientStatistics, gramian
from mtl_runner.tracking.record import safe
from mtl_runner.trainer import Trainer

Config = Callable[..., DictConfig]
KINDS = ("norm", "cosine", "conflicts")
SAMPLED = "trainer.log_gradients_every=1"


def rows(trainer: Trainer, batch: Any) -> Tensor:
    """Each task's gradient of the shared parameters, from a forward pass of its own."""
    found = []
    for place in range(len(trainer.names)):
        loss = torch.cat(list(trainer.objectives(batch).parts))[place]
        gradients = torch.autograd.grad(loss, trainer.shared, allow_unused=True)
        found.append(
            torch.cat(
                [torch.zeros(p.numel()) if g is None else g.flatten() for p, g in zip(trainer.shared, gradients, strict=True)]
            )
        )
    return torch.stack(found)


def means(jacobians: list[Tensor], active: list[list[bool]]) -> tuple[list[float], list[list[float]], list[list[float]]]:
    """Norms, cosines, conflicts by loops over steps and pairs; NaN where there is nothing."""
    count = len(active[0])
    average = lambda values: sum(values) / len(values) if values else float("nan")  # noqa: E731
    norms = [average([float(rows[i].norm()) for rows, on in zip(jacobians, active, strict=True) if on[i]]) for i in range(count)]
    cosines = [
        [
            [
                float(cosine_similarity(rows[i], rows[j], dim=0))
                for rows, on in zip(jacobians, active, strict=True)
                if i != j and on[i] and on[j] and rows[i].norm() > 0 and rows[j].norm() > 0
            ]
            for j in range(count)
        ]
        for i in range(count)
    ]
    conflicts = [[average([value < 0 for value in values]) for values in row] for row in cosines]
    return norms, [[average(values) for values in row] for row in cosines], conflicts


def close(found: Any, expected: Any) -> bool:
    """Nested lists; None in one is NaN in the other."""
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(close, found, expected))
    return isnan(expected) if found is None else found == pytest.approx(expected, rel=1e-4, abs=1e-6)


# ---- the numbers ----------------------------------------------------------------------------------------------------


def test_the_gramian_is_that_of_each_tasks_own_gradient(make_config: Config) -> None:
    trainer = trainer_on(made(), make_config())
    batch = trainer.training_part()
    jacobian = rows(trainer, batch)
    assert torch.allclose(gramian(trainer.objectives(batch)), jacobian @ jacobian.T, rtol=1e-4, atol=1e-7)
    assert all(parameter.grad is None for parameter in trainer.model.parameters())


@pytest.mark.parametrize("steps", [1, 63, 64, 65, 200])
def test_averages_are_those_of_loops(steps: int) -> None:
    draws = torch.Generator().manual_seed(steps)
    jacobians = list(torch.randn(steps, 5, 3, generator=draws) + 0.3)
    active = torch.rand(steps, 5, generator=draws) < 0.7
    active[:, 3] &= ~active[:, 4]  # never together
    for step, jacobian in enumerate(jacobians):
        jacobian[step % 5] *= step % 3  # at times zero
    statistics = GradientStatistics("abcde")
    for rows, on in zip(jacobians, active, strict=True):
        product = rows @ rows.T
        product[~on] = torch.nan  # what an inactive task has there is nothing
        product[:, ~on] = -1e30
        statistics.add(product, on)
        statistics.add(None, on)
    metrics, summary = statistics.end_epoch(), statistics.summary()
    assert summary is not None
    norms, cosines, conflicts = means(jacobians, active.tolist())
    assert close(summary["norm"], norms) and close(summary["cosine"], cosines) and close(summary["conflicts"], conflicts)
    assert summary["cosine"][3][4] is summary["cosine"][4][3] is summary["conflicts"][2][2] is None
    assert summary["steps"] == int(active.any(1).sum()) and summary["tasks"] == list("abcde")
    pairs = [
        [
            float(cosine_similarity(rows[1], rows[j], dim=0))
            for j in (0, 2, 3, 4)
            if on[1] and on[j] and rows[1].norm() * rows[j].norm() > 0
        ]
        for rows, on in zip(jacobians, active, strict=True)
    ]
    values = [value for step in pairs for value in step]
    if values:
        assert metrics["gradient/b/cosine"] == pytest.approx(sum(values) / len(values), rel=1e-4, abs=1e-6)
        assert metrics["gradient/b/conflicts"] == pytest.approx(sum(value < 0 for value in values) / len(values))


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_a_gradient_that_is_not_finite_counts_nowhere(broken: float) -> None:
    statistics = GradientStatistics("abc")
    jacobian = torch.tensor([[1.0, 0.0], [broken, 1.0], [-2.0, 0.0]])
    statistics.add(jacobian @ jacobian.T, torch.ones(3, dtype=torch.bool))
    metrics = statistics.end_epoch()
    assert metrics == {
        "gradient/a/norm": 1, "gradient/c/norm": 2, "gradient/a/cosine": -1, "gradient/c/cosine": -1,
        "gradient/a/conflicts": 1, "gradient/c/conflicts": 1,
    }  # fmt: skip


@pytest.mark.parametrize("scale", [1e-15, 1e15])
def test_cosines_have_no_unit(scale: float) -> None:
    statistics = GradientStatistics("ab")
    jacobian = torch.tensor([[1.0, 0.0], [-0.6, 0.8]])
    statistics.add(jacobian @ jacobian.T * scale**2, torch.ones(2, dtype=torch.bool))
    metrics = statistics.end_epoch()
    assert metrics["gradient/a/cosine"] == pytest.approx(-0.6, rel=1e-5) and metrics["gradient/b/norm"] == pytest.approx(scale)


def test_nothing_is_left_of_an_epoch_that_has_ended_nor_of_one_before_a_state_was_loaded() -> None:
    statistics = GradientStatistics(["a", "b"])
    for _ in range(100):
        statistics.add(torch.eye(2), torch.ones(2, dtype=torch.bool))
    assert statistics.end_epoch() and statistics.cosines is not None
    assert statistics.end_epoch() == {} and statistics.cosines is None
    for _ in range(100):
        statistics.add(torch.eye(2), torch.ones(2, dtype=torch.bool))
    statistics.load_state_dict(None)
    assert statistics.end_epoch() == {} and statistics.summary() is None


def test_an_epoch_has_its_own_means_and_the_whole_those_of_all() -> None:
    statistics, active = GradientStatistics("ab"), torch.ones(2, dtype=torch.bool)
    assert statistics.end_epoch() == {} and statistics.summary() is None
    for norms, sign in (((1.0, 2.0), 1.0), ((3.0, 4.0), -1.0), ((5.0, 6.0), -1.0)):
        product = torch.tensor([[norms[0] ** 2, sign * norms[0] * norms[1]], [sign * norms[0] * norms[1], norms[1] ** 2]])
        statistics.add(product, active)
        if norms[0] == 1:
            first = statistics.end_epoch()
    second, whole = statistics.end_epoch(), statistics.summary()
    assert (first["gradient/a/norm"], first["gradient/a/cosine"], first["gradient/a/conflicts"]) == (1, 1, 0)
    assert (second["gradient/b/norm"], second["gradient/b/cosine"], second["gradient/b/conflicts"]) == (5, -1, 1)
    assert whole is not None and (whole["steps"], whole["norm"]) == (3, [3, 4])
    assert whole["cosine"][0][1] == pytest.approx(-1 / 3) and whole["conflicts"][1][0] == pytest.approx(2 / 3)


# ---- in training ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("choice", ["weighting=pcgrad", "weighting=equal", "weighting=uncertainty"])
def test_an_epoch_tells_what_plain_autograd_tells(choice: str, make_config: Config) -> None:
    """Parameters stay, so that every step's gradients can be computed again."""
    config = make_config(choice, SAMPLED, "optimizer=sgd", "optimizer.lr=1e-30", "optimizer.momentum=0", "trainer.batch_size=10")
    trainer = trainer_on(made(), config)
    metrics = trainer.epoch()
    plain = trainer_on(made(), make_config())
    jacobians = [rows(plain, batch) for batch in trainer.loader.epoch(trainer.training_part(), 1)]
    norms, cosines, conflicts = means(jacobians, [[True] * len(TASKS)] * 5)
    for place, name in enumerate(trainer.names):
        others = [other for other in range(len(TASKS)) if other != place]
        assert metrics[f"gradient/{name}/norm"] == pytest.approx(norms[place], rel=1e-4)
        assert metrics[f"gradient/{name}/cosine"] == pytest.approx(sum(cosines[place][j] for j in others) / 3, abs=1e-5)
        assert metrics[f"gradient/{name}/conflicts"] == pytest.approx(sum(conflicts[place][j] for j in others) / 3)
    summary = trainer.statistics.summary()
    assert summary is not None and summary["steps"] == 5 and close(summary["cosine"], cosines)


def test_a_task_without_labels_is_left_out(make_config: Config) -> None:
    data = made()
    targets = {**data.splits["train"].targets, "size": torch.full((50,), torch.nan)}
    for choice in ("weighting=pcgrad", "weighting=equal"):
        trainer = trainer_on(with_part(data, "train", targets=targets), make_config(choice, SAMPLED))
        names = {name for name in trainer.epoch() if name.startswith("gradient/")}
        assert names == {f"gradient/{task}/{kind}" for task in TASKS if task != "size" for kind in KINDS}
        summary, place = trainer.statistics.summary(), trainer.names.index("size")
        assert summary is not None and summary["cosine"][place] == [None] * 4 and summary["norm"][place] is None


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("weighting=pcgrad",), "parameters"),
        (("weighting=equal", SAMPLED), "parameters"),
        (("weighting=pcgrad", "weighting.gradients=features"), "features"),
    ],
)
def test_it_is_said_what_gradients_are_taken_of(overrides: tuple[str, ...], said: str, make_config: Config) -> None:
    training = training_on(made(), make_config(*overrides))
    next(training.fit())
    summary = training.gradients()
    assert summary is not None and summary["of"] == said


def test_steps_that_reuse_weights_are_not_counted(make_config: Config) -> None:
    trainer = trainer_on(made(), make_config("weighting=pcgrad", "weighting.every=2", "trainer.batch_size=10"))
    trainer.epoch()
    trainer.epoch()
    summary = trainer.statistics.summary()
    assert summary is not None and summary["steps"] == 5


@pytest.mark.parametrize(("every", "steps"), [(1, 10), (2, 5), (3, 4), (7, 2), (50, 1)])
def test_every_kth_step_of_the_run_is_looked_at(every: int, steps: int, make_config: Config) -> None:
    trainer = trainer_on(made(), make_config(f"trainer.log_gradients_every={every}", "trainer.batch_size=10"))
    trainer.epoch()
    trainer.epoch()
    summary = trainer.statistics.summary()
    assert summary is not None and summary["steps"] == steps


@pytest.mark.parametrize("weighting", ["equal", "dynamic", "uncertainty"])
@pytest.mark.parametrize("encoder", ["encoder.dropout=0.3", "trainer.precision=bf16"])
def test_looking_changes_nothing(weighting: str, encoder: str, make_config: Config) -> None:
    overrides = [f"weighting={weighting}", encoder, "trainer.batch_size=10", "trainer.clip_norm=0.5", "trainer.l1=1e-4"]
    seen, blind = (training_on(made(), make_config(*overrides, *more)) for more in (["trainer.log_gradients_every=2"], []))
    for one, other in zip(seen.fit(), blind.fit(), strict=True):
        assert {k: v for k, v in one.metrics.items() if not k.startswith("gradient/")} == other.metrics
        assert len(one.metrics) == len(other.metrics) + 12
    assert blind.gradients() is None
    states = [training.state_dict() for training in (seen, blind)]
    for state in states:
        state["trainers"][0]["now"].pop("gradients")
    assert same(*states)


@pytest.mark.parametrize("sharing", ["none", "soft"])
def test_where_nothing_is_shared_there_is_nothing_to_see(
    sharing: str, make_config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        training = training_on(made(), make_config(f"sharing={sharing}", SAMPLED))
    assert [line for line in caplog.messages if "log_gradients_every plays no part" in line]
    assert not [name for epoch in training.fit() for name in epoch.metrics if name.startswith("gradient/")]
    assert training.gradients() is None


def test_nothing_is_looked_at_unless_asked_for(make_config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mtl_runner.trainer.gramian", lambda objectives: pytest.fail("a Gramian was computed"))
    list(training_on(made(), make_config()).fit())
    list(training_on(made(), make_config("weighting=pcgrad", SAMPLED)).fit())


def test_after_an_epoch_the_weighting_is_told_the_mean_losses(make_config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    data, told = made(), []
    targets = {**data.splits["train"].targets, "size": torch.full((50,), torch.nan)}
    trainer = trainer_on(with_part(data, "train", targets=targets), make_config())
    monkeypatch.setattr(trainer.weighting, "after_epoch", told.append)
    metrics = trainer.epoch()
    (losses,) = told
    assert losses.shape == (4,) and losses[trainer.names.index("size")].isnan()
    for name, loss in zip(trainer.names, losses.tolist(), strict=True):
        assert name == "size" or loss == pytest.approx(metrics[f"train/{name}/loss"], rel=1e-6)


# ---- in the run folder ----------------------------------------------------------------------------------------------

RUN = ["encoder.hidden=[16,8]", "encoder.dropout=0.2", "trainer.batch_size=200"]


@pytest.mark.parametrize("choice", [("weighting=pcgrad",), ("weighting=equal", "trainer.log_gradients_every=4")], ids=" ".join)
@pytest.mark.parametrize(("begun", "goal"), [("trainer.epochs=3", None), ("trainer.steps=8", 15)])
def test_a_resumed_run_ends_with_the_same_file(
    choice: tuple[str, ...],
    begun: str,
    goal: int | None,
    train: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Interrupted in its second epoch, or, with a larger budget, after its end, which may lie within an epoch."""
    key = begun.removeprefix("trainer.").split("=")[0]
    folder = tmp_path / "begun"
    if goal is None:
        whole_epoch = Trainer.end_epoch
        with monkeypatch.context() as patch:
            patch.setattr(
                Trainer, "end_epoch", lambda self, report: interrupt() if self.progress.epoch == 2 else whole_epoch(self, report)
            )
            with pytest.raises(KeyboardInterrupt):
                train(*RUN, *choice, begun, folder=folder)
        assert not (folder / "gradients.json").exists()
        run.resume(folder)
    else:
        train(*RUN, *choice, begun, folder=folder)
        before = json.loads((folder / "gradients.json").read_text())
        run.resume(folder, **{key: goal})
        assert before["steps"] < json.loads((folder / "gradients.json").read_text())["steps"]
    whole = train(*RUN, *choice, begun if goal is None else f"trainer.{key}={goal}")
    assert (folder / "gradients.json").read_bytes() == (whole / "gradients.json").read_bytes()
    assert same(checkpoint(folder, "last"), checkpoint(whole, "last"))


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.usefixtures("figures_too")
def test_the_folder_has_numbers_and_picture(train: Callable[..., Path]) -> None:
    folder = train(*RUN, "weighting=pcgrad")
    found = json.loads((folder / "gradients.json").read_text())
    assert found.keys() == {"tasks", "of", "steps", "norm", "cosine", "conflicts"} and found["steps"] == 12
    assert (folder / "figures" / "gradient_cosines.png").exists()
    lines = [json.loads(line)["metrics"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        names = {name for name in line if name.startswith("gradient/")}
        assert names == {f"gradient/{task}/{kind}" for task in found["tasks"] for kind in KINDS}
        assert all(safe(name) == name for name in names)


def test_without_gradients_there_is_no_file(train: Callable[..., Path]) -> None:
    assert not (train(*RUN, "trainer.epochs=1") / "gradients.json").exists()
