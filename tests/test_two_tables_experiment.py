"""``experiments/two_tables``: both tables can be used, and each task beats a simple learned model on the same inputs and rows."""

import importlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from sklearn.linear_model import LogisticRegression, PoissonRegressor, Ridge
from sklearn.metrics import d2_tweedie_score, r2_score, roc_auc_score

from mtl_runner.datasets.tables import Tables
from mtl_runner.errors import UserError
from mtl_runner.metrics.survival import survival
from mtl_runner.predict import evaluate, predict
from mtl_runner.tasks.survival import partial_likelihood

FOLDER = Path(__file__).resolve().parents[1] / "experiments" / "two_tables"


def baselines(node):
    """Of each task the primary metric of a linear model, fitted to the training part and measured on the test part."""
    data = Tables(**{key: value for key, value in node.items() if key != "_target_"}).load()

    def part(name, task):
        split = data.splits[name]
        fields, stream = split.inputs[split.streams[task]], data.streams[split.streams[task]]
        codes = [np.eye(size)[column] for size, column in zip(stream.cardinalities, fields["categorical"].numpy().T, strict=True)]
        return np.concatenate([fields["numeric"].numpy(), *codes], 1), split.targets[task].double().numpy()

    (x, y), (x_test, y_test) = part("train", "ill"), part("test", "ill")
    yield "ill", roc_auc_score(y_test, LogisticRegression().fit(x, y).predict_proba(x_test)[:, 1])
    (x, y), (x_test, y_test) = part("train", "visits"), part("test", "visits")
    yield "visits", d2_tweedie_score(y_test, PoissonRegressor(alpha=1e-3).fit(x, y).predict(x_test), power=1)
    (x, y), (x_test, y_test) = part("train", "distance_km"), part("test", "distance_km")
    yield "distance_km", r2_score(y_test, Ridge().fit(x, y).predict(x_test))
    (x, y), (x_test, y_test) = part("train", "membership"), part("test", "membership")
    risk = torch.from_numpy(x_test) @ linear_hazard(torch.from_numpy(x), torch.from_numpy(y))
    yield "membership", survival(risk[None], torch.from_numpy(y_test)[None])["concordance"].item()


def linear_hazard(x, y):
    """Coefficients of Cox's proportional hazards, with a small ridge penalty."""
    weights = torch.zeros(x.shape[1], dtype=x.dtype, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=100, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = partial_likelihood((x @ weights)[None], y[None, :, 0], y[None, :, 1], torch.ones(1, len(x)).double(), True)[0]
        total = value.sum() + 1e-3 * weights.square().sum()
        total.backward()
        return total

    optimizer.step(loss)
    return weights.detach()


def test_each_table_is_predicted_and_evaluated_by_itself(
    tmp_path: Path, train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tasks of all types that a table can have, from the training to what a user reads."""
    monkeypatch.syspath_prepend(str(FOLDER))
    importlib.import_module("make").write(tmp_path, 80)
    clinic = "{ill:{table:clinic},visits:{table:clinic,type:count},pulse:{table:clinic,type:quantile},"
    gym = "plan:{table:gym,type:ordinal,classes:[basic,team,gold]},bmi:{table:gym,type:regression,loss:gaussian},"
    stay = "stay:{table:gym,type:survival,time:months,event:left,model:discrete,intervals:3},"
    both = "both:{table:gym,type:multilabel,columns:left}}"
    folder = train("dataset=tables", "dataset.tables={clinic:clinic.csv,gym:gym.csv}", f"dataset.tasks={clinic}{gym}{stay}{both}")
    with pytest.raises(UserError, match="name one with --stream; there are clinic, gym"):
        predict(folder, Path("gym.csv"), Path("out.parquet"))
    predict(folder, Path("gym.csv"), Path("out.parquet"), stream="gym")
    shown = pd.read_parquet("out.parquet")
    assert len(shown) == 80 and {"plan", "bmi", "bmi_sd", "stay", "both_left"} <= {*shown} and not {"ill", "visits"} & {*shown}
    spec = json.loads((folder / "data.json").read_text())["targets"]
    assert shown["stay"].between(0, spec["stay"]["options"]["cuts"][-1]).all() and shown["bmi"].between(10, 50).all()
    report = evaluate(folder, Path("clinic.csv"), stream="clinic")
    assert {*report.metrics} == {"ill", "visits", "pulse"} and report.metrics["visits"]["mae"] > 0


@pytest.mark.slow
def test_each_task_beats_a_linear_model(tmp_path: Path, train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    importlib.import_module("make").write(tmp_path)
    node = yaml.safe_load((FOLDER / "two_tables.yaml").read_text())
    given = [f"dataset.{key}={json.dumps(value).replace(chr(34), '')}" for key, value in node["dataset"].items()]
    settings = [f"trainer.{key}={value}" for key, value in node["trainer"].items()]
    folder = train("dataset=tables", "scheduler=cosine", *given, *settings, "encoder.hidden=[128,64]")
    metrics = json.loads((folder / "test_metrics.json").read_text())
    scores = {task: row[metrics["primary"][task]] for task, row in metrics["tasks"].items()}
    linear = dict(baselines({**node["dataset"], "split": {"by": "random", "validation": 0.15, "test": 0.15}}))
    assert scores.keys() == linear.keys() and all(scores[task] > linear[task] + 0.02 for task in linear), (scores, linear)
