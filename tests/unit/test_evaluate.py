"""Evaluation: batches, averages, what is undefined, and the confusion matrices."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from handmade import TASKS, made, two_streams, with_part
from omegaconf import DictConfig
from sklearn import metrics as sk

from mtl_runner import build
from mtl_runner.batch import Data, Split
from mtl_runner.config.schema import plain
from mtl_runner.datasets.shapes import Shapes
from mtl_runner.evaluate import Measured, averages, evaluate, measured, predict, score
from mtl_runner.metrics import METRICS
from mtl_runner.model import MultiTaskModel
from mtl_runner.tasks.group import pack

Config = Callable[..., DictConfig]


def ready(data: Data, config: DictConfig) -> tuple[MultiTaskModel, Split]:
    model = build.make_model(plain(config), data.streams, data.targets)
    return model, pack(data.splits["test"], model.task_groups)


@pytest.mark.parametrize("streams", ["one", "two"])
@pytest.mark.parametrize("sharing", ["hard", "none"])
def test_the_size_of_a_batch_changes_nothing(streams: str, sharing: str, make_config: Config) -> None:
    """Also where one stream has no rows left in the last batches."""
    data = made() if streams == "one" else two_streams()
    model, split = ready(data, make_config(f"sharing={sharing}"))
    whole = predict(model, split, 1000)
    rows = {name: data.splits["test"].size(spec.stream) for name, spec in data.targets.items()}
    for size in (1, 7, 50):
        for key, values in predict(model, split, size).items():
            assert values.shape[:2] == (len(model.task_groups[key].names), rows[model.task_groups[key].names[0]])
            assert torch.allclose(values, whole[key], atol=1e-6)


def test_evaluation_leaves_no_trace(make_config: Config) -> None:
    """Dropout and batch statistics are off, and the mode is as before."""
    config = make_config("encoder.dropout=0.5", "encoder.norm=batch")
    model, split = ready(made(), config)
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, second = (evaluate(model, split, 16) for _ in range(2))
    assert first == second and model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.eval()
    evaluate(model, split, 16)
    assert not model.training


def test_values_are_those_of_scikit_learn(make_config: Config) -> None:
    data = made()
    model, split = ready(data, make_config())
    report = evaluate(model, split, 20)
    with torch.no_grad():
        outputs = model(data.splits["test"].inputs)
    targets = data.splits["test"].targets
    assert report.metrics["yes"]["roc_auc"] == pytest.approx(sk.roc_auc_score(targets["yes"], outputs["yes"]))
    assert report.metrics["sort"]["balanced_accuracy"] == pytest.approx(
        sk.balanced_accuracy_score(targets["sort"], outputs["sort"].argmax(1))
    )
    assert report.metrics["size"]["mae"] == pytest.approx(2 * sk.mean_absolute_error(targets["size"], outputs["size"]))
    assert report.losses["pair"] == pytest.approx(sk.mean_squared_error(targets["pair"], outputs["pair"]), rel=1e-5)
    matrix = measured(model, split, 7).confusions()
    assert set(matrix) == {"yes", "sort"}
    assert matrix["sort"] == sk.confusion_matrix(targets["sort"], outputs["sort"].argmax(1), labels=[0, 1, 2]).tolist()


def test_what_is_undefined_is_named_and_left_out(make_config: Config) -> None:
    data = made()
    targets = {**data.splits["test"].targets, "yes": torch.ones(50), "pair": torch.full((50, 2), torch.nan)}
    data = with_part(data, "test", targets=targets)
    model, split = ready(data, make_config())
    report = evaluate(model, split, 100)
    assert set(report.undefined()) == {"yes (roc_auc, average_precision)", "pair"}
    means = averages(report.metrics, model.tasks)
    assert means["primary"] == pytest.approx((report.metrics["sort"]["balanced_accuracy"] + report.metrics["size"]["r2"]) / 2)
    assert means["roc_auc"] == report.metrics["sort"]["roc_auc"] and means["r2"] == report.metrics["size"]["r2"]
    assert means["accuracy"] == pytest.approx((report.metrics["yes"]["accuracy"] + report.metrics["sort"]["accuracy"]) / 2)
    assert math.isnan(report.losses["pair"])
    assert score(report.metrics, [task for task in model.tasks if task.name in ("yes", "pair")]) is None


def test_averages_are_over_the_main_tasks(make_config: Config) -> None:
    tasks = {name: replace(spec, role="auxiliary" if name in ("size", "pair") else "main") for name, spec in TASKS.items()}
    model, split = ready(made(tasks), make_config())
    report = evaluate(model, split, 100)
    means = averages(report.metrics, model.tasks)
    assert "mae" not in means and "size" in report.metrics
    expected = (report.metrics["yes"]["roc_auc"] + report.metrics["sort"]["balanced_accuracy"]) / 2
    assert means["primary"] == pytest.approx(expected)
    auxiliary = [task for task in model.tasks if not task.main]
    assert averages(report.metrics, auxiliary) == {}


def test_no_average_is_over_units(make_config: Config) -> None:
    """Euros and rooms have no mean; the primary average is of metrics without a unit, whatever users choose."""
    model, split = ready(made(), make_config())
    report = evaluate(model, split, 100)
    means = averages(report.metrics, model.tasks)
    assert {"mae", "rmse"} <= set(report.metrics["size"]) and not {"mae", "rmse"} & set(means)
    assert means["primary"] == score(report.metrics, model.tasks)
    assert not [metric for metrics in METRICS.values() for metric in metrics if metric.in_units and metric.higher_is_better]


def test_a_primary_metric_of_the_users_choice_counts(make_config: Config) -> None:
    tasks = {"yes": replace(TASKS["yes"], metric="mcc"), "sort": TASKS["sort"]}
    model, split = ready(made(tasks), make_config())
    report = evaluate(model, split, 100)
    assert next(iter(report.metrics["yes"])) == "mcc"
    expected = (report.metrics["yes"]["mcc"] + report.metrics["sort"]["balanced_accuracy"]) / 2
    assert averages(report.metrics, model.tasks)["primary"] == pytest.approx(expected)


def test_outputs_that_are_not_finite_have_no_metrics(make_config: Config) -> None:
    model, split = ready(made(), make_config())
    outputs = predict(model, split, 100)
    key = next(key for key, group in model.task_groups.items() if "size" in group.names)
    outputs[key][0, 3] = torch.inf
    seen = Measured(model)
    seen.add(outputs, split)
    report = seen.report()
    assert {name for name, row in report.metrics.items() if math.isnan(next(iter(row.values())))} == {"size"}
    assert all(math.isnan(value) for value in report.metrics["size"].values())


def test_the_run_says_what_is_undefined(train: Callable[..., Path]) -> None:
    """A class that the test part lacks: no ROC-AUC there; the average is over the rest."""
    folder = train("dataset=synthetic", "dataset.missing=[0,1.0,0,0]", "dataset.missing_parts=[test]", "dataset.rows=200")
    results = json.loads((folder / "test_metrics.json").read_text())
    assert results["undefined"] == ["task_1"]
    assert set(results["tasks"]["task_1"].values()) == {None}
    others = [results["tasks"][name]["roc_auc"] for name in ("task_0", "task_2", "task_3")]
    assert results["average"]["primary"] == pytest.approx(sum(others) / 3)
    log = (folder / "run.log").read_text()
    assert log.count("task task_1 has no label in test: it has no test metrics") == log.count("task_1") == 1


def test_what_is_summed_up_batch_by_batch_is_that_of_all_at_once(make_config: Config) -> None:
    """Metrics, losses and confusion matrices of kinds whose outputs are not kept; the last batch is a smaller one."""
    data = Shapes(rows=4, validation_rows=4, test_rows=7, size=16, missing=0.3).load()
    model, split = ready(data, make_config("dataset=shapes", "encoder=unet", "encoder.channels=2", "encoder.depth=1"))
    parts, whole = measured(model, split, 3), measured(model, split, 7)
    assert parts.confusions() == whole.confusions() and set(whole.confusions()) == {"segmentation"}
    assert whole.outputs == {}
    for name, row in whole.report().metrics.items():
        assert parts.report().metrics[name] == pytest.approx(row, nan_ok=True)
        assert parts.report().losses[name] == pytest.approx(whole.report().losses[name], rel=1e-5)
