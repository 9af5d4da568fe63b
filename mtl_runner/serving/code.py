"""The code of the MLflow model: MLflow copies this file into the model and runs it to load it (models from code)."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pyarrow as pa
import torch
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from mtl_runner.datasets.prepared import read_preparation
from mtl_runner.folder import read_specs
from mtl_runner.predictions import columns


class MultiTaskPredictor(PythonModel):
    """Raw columns → the run's own preparation → the exported program → predictions of all tasks.

    A number may be missing, a category may be missing or new. Columns that the model does not read are ignored; one that
    it reads has to be there and is named if it is not.
    """

    def load_context(self, context: PythonModelContext) -> None:
        """Reads the program and ``data.json``."""
        data = json.loads(Path(context.artifacts["data"]).read_text(encoding="utf-8"))
        (self.preparation,) = read_preparation(data["preparation"]).values()
        self.targets = read_specs(data)[1]
        self.program = torch.export.load(context.artifacts["program"]).module()

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: Mapping[str, Any] | None = None
    ) -> pd.DataFrame:
        """One row of predictions for each row."""
        rows = as_table(model_input)
        inputs = {self.preparation.stream: self.preparation.inputs(rows)}
        with torch.inference_mode():
            outputs = self.program(inputs)
        predicted = columns(outputs, self.targets, self.preparation.context(rows))
        return pd.DataFrame({name: _plain(column).to_pandas() for name, column in predicted.items()})


def as_table(frame: pd.DataFrame) -> pa.Table:
    """The frame in Arrow; values of several types in one column become text, which the preparation reads as well."""
    return pa.table({str(name): _as_column(frame[name]) for name in frame.columns})


def _as_column(values: "pd.Series[Any]") -> pa.Array:
    try:
        return pa.Array.from_pandas(values)
    except pa.ArrowException:
        return pa.array([None if pd.isna(value) else str(value) for value in values])


def _plain(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if isinstance(column, pa.DictionaryArray) else column


mlflow.models.set_model(MultiTaskPredictor())
