"""Predictions and metrics on files, against the model's own outputs and those of the run."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import torch
from sklearn.datasets import load_digits

from mtl_runner import checkpoint, predict, validation
from mtl_runner.datasets.digits import Digits
from mtl_runner.datasets.table import Table
from mtl_runner.errors import UserError
from mtl_runner.evaluate import predict as outputs_of
from mtl_runner.folder import RunFolder
from mtl_runner.tasks.group import pack

CLASSES = {"digit": list("0123456789"), "parity": ["even", "odd"]}


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """The test part of digits as a file: pixels in another order, an unused column, and the labels."""
    rows = Digits().load().splits["test"].context["input"]["row"].numpy()
    bunch = load_digits()
    columns: dict[str, Any] = {"unused": ["x"] * len(rows)}
    for place in reversed(range(64)):
        columns[f"pixel_{place // 8}_{place % 8}"] = bunch.data[rows, place]
    columns |= {"digit": bunch.target[rows], "parity": np.array(CLASSES["parity"])[bunch.target[rows] % 2]}
    path = tmp_path / "new.parquet"
    pa.parquet.write_table(pa.table(columns), path)
    return path


def table(path: Path) -> pa.Table:
    return pa.csv.read_csv(path) if path.suffix == ".csv" else pa.parquet.read_table(path)


def own_outputs(folder: Path) -> dict[str, torch.Tensor]:
    """What the run's model gives on the test part of its data set."""
    trained = predict.load(folder, "cpu")
    groups = trained.model.task_groups
    outputs = outputs_of(trained.model, pack(Digits().load().splits["test"], groups), 10_000)
    return {name: outputs[key][i] for key, group in groups.items() for i, name in enumerate(group.names)}


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
@pytest.mark.parametrize("mode", ["sharing=hard", "sharing=none"])
def test_predictions_are_the_models_own(ending: str, mode: str, train: Callable[..., Path], digits: Path, tmp_path: Path) -> None:
    folder, out = train(mode, "encoder.dropout=0.3"), tmp_path / f"out{ending}"
    predict.predict(folder, digits, out)
    found, own = table(out), own_outputs(folder)
    for place, name in enumerate(CLASSES["digit"]):
        expected = own["digit"].softmax(1)[:, place].numpy()
        np.testing.assert_allclose(found[f"digit_probability_{name}"].to_numpy(), expected, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(found["parity_probability"].to_numpy(), own["parity"].sigmoid().numpy(), rtol=1e-4, atol=1e-7)
    decided = {"digit": own["digit"].argmax(1), "parity": (own["parity"] > 0).long()}
    for task, classes in CLASSES.items():
        assert list(map(str, found[task].to_pylist())) == [classes[i] for i in decided[task].tolist()]
    for place in (0, 27, 63):
        values = found[f"reconstruction_pixel_{place // 8}_{place % 8}"].to_numpy()
        np.testing.assert_allclose(values, 16 * own["reconstruction"][:, place].numpy(), rtol=1e-4, atol=1e-4)
    assert found.num_columns == 11 + 2 + 64


ADJUSTED = ("threshold", "logit_adjustment_posthoc", "temperature")


@pytest.mark.parametrize("decision", ADJUSTED)
def test_classes_are_decided_as_the_run_has_chosen(
    decision: str, train: Callable[..., Path], digits: Path, tmp_path: Path
) -> None:
    """Probabilities are those before a shift; the class is the one after it."""
    folder = train(f"imbalance=[oversample,{decision}]", "dataset.long_tail=30", "trainer.epochs=4")
    predict.predict(folder, digits, tmp_path / "out.csv")
    found, own = table(tmp_path / "out.csv"), own_outputs(folder)
    chosen = {task: spec.decision for task, spec in RunFolder(folder).read_specs()[1].items()}
    temperature, offsets = chosen["digit"].temperature, torch.tensor(chosen["digit"].offsets or (0.0,))
    assert (temperature != 1) == (decision == "temperature") and bool(offsets.any()) == (decision == "threshold")
    shares = (own["digit"] / temperature).softmax(1)
    np.testing.assert_allclose(found["digit_probability_3"].to_numpy(), shares[:, 3].numpy(), rtol=1e-4, atol=1e-7)
    assert found["digit"].to_pylist() == (own["digit"] / temperature + offsets).argmax(1).tolist()
    parity = own["parity"] / chosen["parity"].temperature
    positive = parity + (chosen["parity"].offsets or (0.0,))[0] > 0
    np.testing.assert_allclose(found["parity_probability"].to_numpy(), parity.sigmoid().numpy(), rtol=1e-4, atol=1e-7)
    assert found["parity"].to_pylist() == [CLASSES["parity"][int(yes)] for yes in positive]
    results = json.loads((folder / "test_metrics.json").read_text())
    ranks = ("roc_auc", "average_precision", "log_loss", "brier", "calibration_error")
    same = [name for name in ranks if results["tasks"]["digit"][name] == results["unadjusted"]["digit"][name]]
    assert len(same) == len(ranks) if decision != "temperature" else "log_loss" not in same
    assert set(results["unadjusted"]) == {"digit", "parity"}


@pytest.mark.parametrize(
    "imbalance", ["none", "class_weights", "focal", "ldam", "[oversample,class_weights]", "[focal,threshold]", "temperature"]
)
def test_evaluate_gives_the_metrics_of_the_run(imbalance: str, train: Callable[..., Path], digits: Path) -> None:
    folder = train(f"imbalance={imbalance}", "sharing=soft")
    report = predict.evaluate(folder, digits)
    known = json.loads((folder / "test_metrics.json").read_text())["tasks"]
    assert report.metrics.keys() == known.keys()
    for task, row in known.items():
        assert report.metrics[task] == pytest.approx(row, rel=1e-5), task


def test_the_size_of_a_batch_changes_nothing(train: Callable[..., Path], digits: Path, tmp_path: Path) -> None:
    folder = train("encoder=cnn", "encoder.channels=[3,4]", "encoder.width=8")
    results = []
    for size in (17, 100, 100_000):
        predict.predict(folder, digits, tmp_path / f"{size}.parquet", size)
        results.append(table(tmp_path / f"{size}.parquet"))
    for other in results[1:]:
        assert other.schema == results[0].schema and other["digit"].to_pylist() == results[0]["digit"].to_pylist()
        for name in ("parity_probability", "reconstruction_pixel_3_3"):
            np.testing.assert_allclose(other[name].to_numpy(), results[0][name].to_numpy(), rtol=1e-4, atol=1e-5)
    reports = [predict.evaluate(folder, digits, size).metrics["digit"] for size in (17, 100_000)]
    assert reports[0] == pytest.approx(reports[1], rel=1e-4)


def test_memory_is_bounded_by_the_batch(
    train: Callable[..., Path], digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more rows are read, computed or held than a batch has."""
    seen: list[int] = []
    whole = predict.Trained.predictions

    def watched(self: predict.Trained, rows: pa.RecordBatch) -> dict[str, pa.Array]:
        seen.append(rows.num_rows)
        return whole(self, rows)

    monkeypatch.setattr(predict.Trained, "predictions", watched)
    predict.predict(train(), digits, tmp_path / "out.parquet", 50)
    assert max(seen) == 50 and sum(seen) == table(digits).num_rows
    assert pa.parquet.ParquetFile(tmp_path / "out.parquet").num_row_groups == len(seen)


def test_mistakes_are_named_and_leave_nothing(train: Callable[..., Path], digits: Path, tmp_path: Path) -> None:
    folder, rows = train(), table(digits)
    short, bad, out = tmp_path / "short.parquet", tmp_path / "bad.csv", tmp_path / "out.csv"
    pa.parquet.write_table(rows.drop_columns(["pixel_0_0", "pixel_3_4"]), short)
    with bad.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(rows.schema.names)
        cells = [["12"] * rows.num_columns for _ in range(5)]
        cells[2][rows.schema.get_field_index("pixel_0_1")] = "dark"
        writer.writerows(cells)
    for source, target, message in (
        (short, out, "'pixel_0_0'.*'pixel_3_4'"),
        (bad, out, "(?s)line 4.*'pixel_0_1'.*dark"),
        (tmp_path / "nowhere.csv", out, "nowhere"),
        (digits, tmp_path / "out.xlsx", r"\.parquet, \.csv"),
    ):
        with pytest.raises(UserError, match=message):
            predict.predict(folder, source, target, 2)  # the bad cell is in the second batch
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]
    with pytest.raises(UserError, match="digit"):
        predict.evaluate(folder, _without(digits, "digit"))
    with pytest.raises(UserError, match="nothing_here"):
        predict.predict(tmp_path / "nothing_here", digits, out)


def test_a_run_without_best_weights_is_not_used(train: Callable[..., Path], digits: Path, tmp_path: Path) -> None:
    folder = train()
    (folder / "checkpoints" / "best.pt").unlink()
    with pytest.raises(UserError, match="no trained model"):
        predict.predict(folder, digits, tmp_path / "out.csv")


def test_decisions_ask_for_no_outputs_but_those_that_they_are_about(
    train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of others there may be a map for each image, or sentences that are not equally long."""
    asked: list[list[str]] = []

    def watched(model: Any, split: Any, size: int) -> Any:
        asked.append([name for key in split.targets for name in model.task_groups[key].names])
        return outputs_of(model, split, size)

    monkeypatch.setattr(validation, "predict", watched)
    folder = train("imbalance=temperature", "imbalance.temperature.tasks=[parity]", "trainer.epochs=1")
    assert asked == [["parity"]] and set(json.loads((folder / "test_metrics.json").read_text())["unadjusted"]) == {"parity"}


def test_a_folder_that_no_run_has_written_is_refused(train: Callable[..., Path], digits: Path, tmp_path: Path) -> None:
    """A stranger's: whatever is in it, no traceback."""
    folder = train()
    written = json.loads((folder / "data.json").read_text())
    for change in (
        {"preparation": {"kind": "images"}},
        {"preparation": {"kind": "text"}},
        {"preparation": {"kind": "streams", "streams": {"a": 1}}},
    ):
        (folder / "data.json").write_text(json.dumps(written | change))
        with pytest.raises(UserError, match=r"data\.json: this program writes no such preparation"):
            predict.predict(folder, digits, tmp_path / "out.csv")
    (folder / "data.json").write_text(json.dumps(written | {"preparation": written["preparation"] | {"shape": [8, "8"]}}))
    with pytest.raises(UserError, match=r'data\.json: preparation\.shape\.1="8": must be a whole number'):
        predict.predict(folder, digits, tmp_path / "out.csv")
    (folder / "data.json").write_text(json.dumps(written | {"preparation": written["preparation"] | {"stream": "other"}}))
    with pytest.raises(UserError, match=r"its preparation is of a stream 'other'; there are input"):
        predict.predict(folder, digits, tmp_path / "out.csv")
    (folder / "data.json").write_text(json.dumps(written))
    for weights in ({"of another network": torch.zeros(1)}, [1]):
        checkpoint.save(weights, folder / "checkpoints" / "best.pt")
        with pytest.raises(UserError, match=r"best\.pt: not the weights of this run's network"):
            predict.predict(folder, digits, tmp_path / "out.csv")


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_a_file_of_no_rows_gives_one_of_no_rows(ending: str, train: Callable[..., Path], digits: Path, tmp_path: Path) -> None:
    empty = tmp_path / f"empty{ending}"
    rows = table(digits).slice(0, 0)
    pa.csv.write_csv(rows, empty) if ending == ".csv" else pa.parquet.write_table(rows, empty)
    predict.predict(train(), empty, tmp_path / "out.parquet")
    found = table(tmp_path / "out.parquet")
    assert found.num_rows == 0 and found.num_columns == 77


def test_one_output_file_can_replace_its_input(train: Callable[..., Path], digits: Path) -> None:
    count = table(digits).num_rows
    predict.predict(train(), digits, digits, 100)
    assert table(digits).num_rows == count and "digit_probability_0" in table(digits).schema.names


def test_a_table_is_read_as_in_training(train: Callable[..., Path], tmp_path: Path) -> None:
    """Missing inputs, unseen categories and units: predictions on the training file are those of the prepared tensors."""
    draws = np.random.default_rng(0)
    age, town = draws.normal(40, 10, 200).round(1), draws.choice(["Oslo", "Rome", "Lima"], 200)
    lines = ["age,town,spend,churn"]
    for i in range(200):
        cells = ["" if i % 17 == 0 else str(age[i]), town[i], f"{3 * age[i] + 100:.2f}", "yes" if age[i] > 40 else "no"]
        lines.append(",".join(cells))
    path = tmp_path / "shop.csv"
    path.write_text("\n".join(lines) + "\n")
    tasks = "dataset.tasks={churn:{type:binary},spend:{type:regression}}"
    folder = train("dataset=table", f"dataset.path={path}", tasks, "trainer.epochs=30", "optimizer.lr=0.02")
    predict.predict(folder, path, tmp_path / "out.csv")
    found = table(tmp_path / "out.csv")

    data = Table(str(path), {"churn": {"type": "binary"}, "spend": {"type": "regression"}}).load()
    trained = predict.load(folder, "cpu")
    for split in data.splits.values():
        rows = split.context["input"]["row"].numpy()
        with torch.no_grad():
            own = trained.model(split.inputs)
        spec = data.targets["spend"]
        expected = spec.center[0] + spec.scale[0] * own["spend"].double().numpy()
        np.testing.assert_allclose(found["spend"].to_numpy()[rows], expected, rtol=1e-5)
        np.testing.assert_allclose(found["churn_probability"].to_numpy()[rows], own["churn"].sigmoid().numpy(), rtol=1e-4)
    assert set(found["churn"].to_pylist()) == {"yes", "no"}
    assert abs(found["spend"].to_numpy() - 3 * age - 100)[1:17].max() < 40  # in the unit of the file
    new = tmp_path / "new.csv"
    new.write_text("town,age\nAtlantis,30\nRome,\n")
    predict.predict(folder, new, tmp_path / "new_out.csv")
    assert np.isfinite(table(tmp_path / "new_out.csv")["spend"].to_numpy()).all()


def _without(path: Path, column: str) -> Path:
    target = path.with_name("without.parquet")
    pa.parquet.write_table(table(path).drop_columns([column]), target)
    return target


def test_metrics_of_no_rows_are_refused(train: Callable[..., Path], digits: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.csv"
    empty.write_text(",".join(table(digits).column_names) + "\n")
    with pytest.raises(UserError, match=r"empty\.csv has no rows"):
        predict.evaluate(train(), empty)


def test_a_folder_that_is_not_there_is_not_made(train: Callable[..., Path], digits: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no folder"):
        predict.predict(train(), digits, tmp_path / "deep" / "out.csv")
    assert not (tmp_path / "deep").exists()
