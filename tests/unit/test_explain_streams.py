"""``explain`` on runs with several input streams: of each stream its own tasks, as the same model gives them by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
import torch
from sklearn.metrics import r2_score, roc_auc_score

from mtl_runner.datasets.tables import Tables
from mtl_runner.errors import UserError
from mtl_runner.explain import Explanation, explain
from mtl_runner.predict import load
from mtl_runner.seeding import derive

INPUTS = {"shop": ("age", "spent", "town"), "mach": ("age", "heat")}
TASKS = {"shop": ("churn", "loyal", "basket"), "mach": ("broken", "wear")}
SCORES: dict[str, Callable[..., float]] = {
    "churn": roc_auc_score, "loyal": roc_auc_score, "basket": r2_score, "broken": roc_auc_score, "wear": r2_score,
}  # fmt: skip


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """Two files with different columns and rows; binary tasks in both, two of them in the first, and a number in each."""
    draws = np.random.default_rng(0)
    age, spent, noise, heat = draws.normal(size=(4, 120))
    town = draws.choice(["Oslo", "Rome", "Lima"], 120)
    labels = {
        "churn": np.where(age + 0.3 * noise > 0, "yes", "no"),
        "loyal": np.where(spent > age, "yes", "no"),
        "basket": 2.0 * spent + (town == "Oslo"),
    }
    pa.csv.write_csv(pa.table({"age": age, "spent": spent, "town": town, **labels}), tmp_path / "shop.csv")
    some = {"age": age[:90], "heat": heat[:90], "broken": np.where(heat > 0.2, "yes", "no")[:90], "wear": 100.0 * age[:90]}
    pa.csv.write_csv(pa.table(some), tmp_path / "mach.csv")
    return tmp_path


def options(folder: Path) -> dict[str, Any]:
    tasks = {task: {"table": stream} for stream, own in TASKS.items() for task in own}
    return {"tables": {name: str(folder / f"{name}.csv") for name in TASKS}, "tasks": tasks}


def run_on(train: Callable[..., Path], folder: Path, mode: str) -> Path:
    homes = ",".join(f"{task}:{{table:{stream}}}" for stream, own in TASKS.items() for task in own)
    return train(
        "dataset=tables", f"dataset.tables={{shop:{folder}/shop.csv,mach:{folder}/mach.csv}}", f"dataset.tasks={{{homes}}}",
        "dataset.split={validation:0.4}", f"sharing={mode}", "trainer.epochs=1",
    )  # fmt: skip


def check_by_hand(run: Path, found: Explanation, fields: dict[str, torch.Tensor], targets: dict[str, Any], stream: str) -> None:
    """One column of the stream in another order at a time, and what scikit-learn says of the stream's tasks."""
    trained = load(run, "cpu", stream=stream)
    columns = [(name, place) for name, value in fields.items() for place in range(value.shape[1])]
    assert found.tasks == TASKS[stream] and found.inputs == INPUTS[stream] and found.rows == len(fields["numeric"])

    def scored(changed: dict[str, torch.Tensor]) -> Any:
        with torch.no_grad():
            outputs = trained.model.outputs({**trained.others, stream: changed}, trained.groups)
        by_task = trained.model.by_task(outputs)
        return np.array([SCORES[task](targets[task].numpy(), by_task[task].numpy()) for task in found.tasks])

    whole, draws = scored(fields), torch.Generator().manual_seed(derive(0, "orders"))
    orders = [torch.randperm(found.rows, generator=draws) for _ in range(3)]
    np.testing.assert_allclose(found.importance.baseline, whole, atol=1e-5)
    for place, (field, column) in enumerate(columns):
        drops = []
        for order in orders:
            changed = {name: value.clone() for name, value in fields.items()}
            changed[field][:, column] = fields[field][order, column]
            drops.append(whole - scored(changed))
        np.testing.assert_allclose(found.importance.drop[:, place], np.mean(drops, 0), atol=1e-5)
    assert np.abs(found.importance.drop).max() > 0 and (found.attributions.gap() <= 5e-3).all()


@pytest.mark.parametrize("mode", ["hard", *(pytest.param(each, marks=pytest.mark.slow) for each in ("none", "soft", "mmoe"))])
def test_each_stream_is_explained_as_by_hand(
    mode: str, train: Callable[..., Path], tables: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mtl_runner.explain.permutation.SAMPLES", 2)  # of intervals, which are not looked at here
    run = run_on(train, tables, mode)
    data = Tables(**options(tables), split={"validation": 0.4}).load()
    for stream, names in TASKS.items():
        part = data.splits["validation"]
        found = explain(run, repeats=3, stream=stream)
        check_by_hand(run, found, dict(part.inputs[stream]), {name: part.targets[name] for name in names}, stream)
        prepared = load(run, "cpu", stream=stream).preparation
        file = tables / f"{stream}.csv"
        (rows,) = prepared.batches(file, (*prepared.columns, *prepared.target_columns(names)), 1000)
        again = explain(run, input=file, repeats=3, stream=stream)
        check_by_hand(run, again, prepared.inputs(rows), prepared.targets(rows, names), stream)


def test_rows_of_the_other_streams_do_not_matter(train: Callable[..., Path], tables: Path) -> None:
    """Fewer rows than there are, drawn of the stream that is looked at and of no other."""
    run = run_on(train, tables, "hard")
    found = explain(run, repeats=2, rows=20, stream="mach")
    assert found.rows == 20 and found.tasks == TASKS["mach"]
    with pytest.raises(UserError, match=r"several input streams, name one with --stream; there are shop, mach"):
        explain(run)
    with pytest.raises(UserError, match=r"--stream shp.*did you mean 'shop'"):
        explain(run, stream="shp")
