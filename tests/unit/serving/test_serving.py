"""The MLflow model of a run: it answers what the network itself would, for any rows that a user sends."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from handmade import kind_of
from omegaconf import OmegaConf

from mtl_runner import build
from mtl_runner.batch import Decision
from mtl_runner.datasets.digits import Digits
from mtl_runner.datasets.rows.preparation import Preparation
from mtl_runner.datasets.table import Table
from mtl_runner.folder import RunFolder
from mtl_runner.model import MultiTaskModel
from mtl_runner.predictions import columns
from mtl_runner.serving import package
from mtl_runner.serving.packaging import export

pytestmark = pytest.mark.filterwarnings("ignore:.*type hint:UserWarning")  # of MLflow's own hints, when pyfunc is imported

CONF = Path(__file__).parents[3] / "conf"
OPTIONS = {group: sorted(path.stem for path in (CONF / group).glob("*.yaml")) for group in ("sharing", "encoder")}


def make_model(data: Any, sharing: str = "hard", encoder: str = "mlp") -> MultiTaskModel:
    """A network with the options' defaults and random weights."""
    nodes = {
        group: OmegaConf.to_container(OmegaConf.load(CONF / group / f"{option}.yaml"))
        for group, option in (("sharing", sharing), ("encoder", encoder))
    }
    return build.make_model({"seed": 0, "allow_modules": [], "imbalance": {}, **nodes}, data.streams, data.targets).eval()


@pytest.fixture(scope="module")
def digits() -> Any:
    return Digits().load()


READS = {"ft_transformer": "table", "embedding": "table", "rnn": "tokens", "transformer": "tokens"}
"""Encoders that digits are nothing for, or have better to read."""
ELSEWHERE = {"pretrained"}
"""Reads a folder that the user names."""
PAIRS = [
    *((sharing, "mlp") for sharing in OPTIONS["sharing"]),
    *(("hard", encoder) for encoder in OPTIONS["encoder"] if encoder not in {"mlp"} | ELSEWHERE),
    *product(("none", "soft"), ("cnn",)),
]
QUICK = {
    *product(("none", "hard", "soft", "ple", "cross_stitch", "task_graph"), ("mlp",)),
    *product(("hard",), ("cnn", "ft_transformer")),
}
"""Those that differ most; the others, whose export takes a second each, are slow."""


@pytest.mark.parametrize(
    ("sharing", "encoder"), [pytest.param(*pair, marks=[] if pair in QUICK else pytest.mark.slow) for pair in PAIRS]
)
def test_the_exported_program_is_the_model(digits: Any, sharing: str, encoder: str) -> None:
    data = kind_of(READS[encoder], "one") if encoder in READS else digits
    model = make_model(data, sharing, encoder).train()
    fields = data.splits["test"].inputs
    example = {stream: {name: value[:2] for name, value in values.items()} for stream, values in fields.items()}
    program = export(model, example).module()
    assert model.training
    for rows in (1, 2, 7):
        some = {stream: {name: value[:rows] for name, value in values.items()} for stream, values in fields.items()}
        expected = model.eval()(some)
        outputs = program(some)
        assert list(outputs) == list(expected)
        for task, value in expected.items():
            torch.testing.assert_close(outputs[task], value)


DECIDED_FROM = 0.25
"""Shift of a task's decision, above 0: from lower probabilities on."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, MultiTaskModel]:
    """A packaged run on a table with every kind of input and task."""
    folder, rng = tmp_path_factory.mktemp("run"), np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "age": rng.normal(40, 10, 400).round(1),
            "rooms": rng.integers(1, 9, 400),
            "town": rng.choice(["Oslo", "Rome", "Bern"], 400),
            "code": rng.choice([10, 20, 30], 400),
            "churn": rng.choice(["no", "yes"], 400),
            "grade": rng.choice(["a", "b", "c"], 400),
            "spend": rng.normal(1000, 200, 400),
        }
    )
    frame.loc[::9, "age"] = None
    frame.to_csv(folder / "data.csv", index=False)
    tasks = {"churn": {"type": "binary", "positive": "yes"}, "grade": {"type": "multiclass"}, "spend": {"type": "regression"}}
    data = Table(str(folder / "data.csv"), tasks, categorical=["code"]).load()
    churn = replace(data.targets["churn"], decision=Decision(2.0, (DECIDED_FROM,)))
    RunFolder(folder).write_data(replace(data, targets={**data.targets, "churn": churn}))
    model = make_model(data)
    package(folder, model)
    return folder, model


@pytest.fixture(scope="module")
def served(run: tuple[Path, MultiTaskModel]) -> Any:
    import mlflow.pyfunc

    return mlflow.pyfunc.load_model(str(run[0] / "model"))


def expected(run: tuple[Path, MultiTaskModel], rows: dict[str, pa.Array]) -> pd.DataFrame:
    """The predictions of the network itself."""
    folder, model = run
    preparation = Preparation.from_json(json.loads((folder / "data.json").read_text())["preparation"])
    with torch.inference_mode():
        outputs = model({preparation.stream: preparation.inputs(pa.table(rows))})
    return pd.DataFrame(
        {name: column.to_pylist() for name, column in columns(outputs, RunFolder(folder).read_specs()[1]).items()}
    )


ROWS: dict[str, list[Any]] = {
    "age": [30.5, 41.0, 52.5],
    "rooms": [1, 2, 3],
    "town": ["Oslo", "Rome", "Bern"],
    "code": [10, 20, 30],
}
CASES: dict[str, dict[str, list[Any]]] = {
    "as in training": {},
    "integers for doubles": {"age": [30, 41, 52]},
    "missing numbers": {"age": [None, 41.0, None], "rooms": [None, 2.0, 3.0]},
    "no number at all": {"age": [None] * 3, "rooms": [None] * 3},
    "missing categories": {"town": [None, "Rome", "Bern"], "code": [None] * 3},
    "unseen categories": {"town": ["Atlantis", "Rome", "Bern"], "code": [99, 20, 30]},
    "categories as text": {"code": ["10", "20.0", "30"]},
}


@pytest.mark.parametrize("case", CASES)
def test_answers_are_the_networks(run: tuple[Path, MultiTaskModel], served: Any, case: str) -> None:
    rows = ROWS | CASES[case]
    answer = served.predict(pd.DataFrame(rows))
    pd.testing.assert_frame_equal(
        answer, expected(run, {name: pa.array(values) for name, values in rows.items()}), check_dtype=False
    )
    assert list(answer) == ["churn", "churn_probability", "grade", *(f"grade_probability_{name}" for name in "abc"), "spend"]


def test_classes_are_decided_as_the_run_has_chosen(run: tuple[Path, MultiTaskModel], served: Any) -> None:
    frame = pd.DataFrame({"age": np.linspace(0, 90, 40), "rooms": 3, "town": "Oslo", "code": 20})
    answer = served.predict(frame)
    share = answer["churn_probability"].astype(float)
    odds = np.log(share / (1 - share))
    assert answer["churn"].tolist() == ["yes" if value + DECIDED_FROM > 0 else "no" for value in odds]
    assert (answer["churn"] == "yes").sum() > 0 and ((answer["churn"] == "yes") != (share > 0.5)).any()


def test_values_of_several_types_in_a_column(run: tuple[Path, MultiTaskModel], served: Any) -> None:
    answer = served.predict(pd.DataFrame(ROWS | {"code": pd.Series([10, "20", None], dtype=object)}))
    same = expected(run, {name: pa.array(values) for name, values in (ROWS | {"code": ["10", "20", None]}).items()})
    pd.testing.assert_frame_equal(answer, same, check_dtype=False)


def test_the_signature_names_every_column(served: Any) -> None:
    inputs, outputs = served.metadata.get_input_schema(), served.metadata.get_output_schema()
    assert set(inputs.input_names()) == set(ROWS)
    assert inputs.optional_input_names() == inputs.input_names()
    assert {column.name: column.type.name for column in outputs.inputs} == {
        "churn": "string",
        "churn_probability": "float",
        "grade": "string",
        **{f"grade_probability_{name}": "float" for name in "abc"},
        "spend": "double",
    }


def test_a_column_that_is_not_there_is_named(served: Any) -> None:
    with pytest.raises(Exception, match="no column 'town'"):
        served.predict(pd.DataFrame({"Town" if name == "town" else name: values for name, values in ROWS.items()}))


def test_digits_are_served_by_pixel(digits: Any, tmp_path: Path) -> None:
    """An image's columns are its pixels; 64 outputs of one task are 64 columns."""
    RunFolder(tmp_path).write_data(digits)
    package(tmp_path, make_model(digits, encoder="cnn"))
    import mlflow.pyfunc

    model = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    pixels = model.metadata.get_input_schema().input_names()
    answer = model.predict(pd.DataFrame(np.ones((1, 64)), columns=pixels))
    assert answer.shape == (1, 1 + 10 + 2 + 64)


def test_packaging_again_replaces_the_model(run: tuple[Path, MultiTaskModel], tmp_path: Path) -> None:
    shutil.copy(run[0] / "data.json", tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old").write_text("")
    package(tmp_path, run[1])
    assert {path.name for path in (tmp_path / "model").iterdir()} >= {"MLmodel", "code.py", "artifacts"}
    assert not (tmp_path / "model" / "old").exists()


class Branching(torch.nn.Module):
    """A network whose way depends on the values."""

    def forward(self, inputs: dict[str, dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        numeric = inputs["input"]["numeric"]
        return {"churn": numeric[:, 0] if numeric.sum() > 0 else numeric[:, 1]}


def test_a_network_that_cannot_be_exported_costs_the_model_only(
    run: tuple[Path, MultiTaskModel], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copy(run[0] / "data.json", tmp_path)
    assert package(tmp_path, Branching()) is None
    assert not (tmp_path / "model").exists()
    assert [entry.getMessage()[:29] for entry in caplog.records if entry.name.startswith("mtl_runner")] == [
        "no MLflow model of this run, "
    ]


@pytest.fixture
def tracked(run: tuple[Path, MultiTaskModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The run, sent to MLflow: its identifier."""
    from mtl_runner.tracking import sync

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    folder = Path(shutil.copytree(run[0], tmp_path / "run"))
    (folder / "config.yaml").write_text("name: served\n")
    (folder / "status.json").write_text(json.dumps({"state": "running", "started": "2026-11-21T08:00:00+00:00", "choices": {}}))
    return sync(folder)


def environment() -> dict[str, str]:
    """That of an activated environment: MLflow looks for ``uvicorn`` on the path."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return os.environ | {"PATH": path, "PYTHONPATH": str(CONF.parent), "MLFLOW_DISABLE_TELEMETRY": "true"}


@pytest.fixture
def server(tracked: str) -> Iterator[str]:
    """The address of `mlflow models serve` for the run's model."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", f"runs:/{tracked}/model", "--env-manager", "local"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port), "-w", "1"], env=environment(), start_new_session=True, **quiet
    )  # type: ignore[call-overload]
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5)
                break
            except OSError:
                assert process.poll() is None, "the server did not start"
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, 9)
        process.wait()


def ask(address: str, records: list[dict[str, Any]]) -> pd.DataFrame:
    body = json.dumps({"dataframe_records": records}).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return pd.DataFrame(json.load(answer)["predictions"])


@pytest.mark.slow
def test_a_real_server_answers_for_all_tasks(run: tuple[Path, MultiTaskModel], server: str) -> None:
    rows = ROWS | {"age": [None, 41.0, 52.5], "town": ["Atlantis", None, "Bern"]}
    answer = ask(server, pd.DataFrame(rows, dtype=object).to_dict("records"))
    same = expected(run, {name: pa.array(values) for name, values in rows.items()})
    pd.testing.assert_frame_equal(answer, same, check_dtype=False)
    single = ask(server, [{"age": None, "rooms": 2, "town": None, "code": 10}])
    assert single.shape == (1, 7)
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(server, [{"age": 3.0, "rooms": 2, "code": 10}])
    assert "no column 'town'" in refused.value.read().decode()


@pytest.mark.slow
def test_predict_of_the_command_line(run: tuple[Path, MultiTaskModel], tracked: str, tmp_path: Path) -> None:
    pd.DataFrame(ROWS).to_csv(tmp_path / "new.csv", index=False)
    command = [sys.executable, "-m", "mlflow", "models", "predict", "-m", f"runs:/{tracked}/model", "--env-manager", "local"]
    paths = ["-i", str(tmp_path / "new.csv"), "-t", "csv", "-o", str(tmp_path / "out.json")]
    subprocess.run([*command, *paths], env=environment(), check=True, capture_output=True)
    answer = pd.DataFrame(json.loads((tmp_path / "out.json").read_text())["predictions"])
    pd.testing.assert_frame_equal(
        answer, expected(run, {name: pa.array(values) for name, values in ROWS.items()}), check_dtype=False
    )
