"""Writes ``model/`` into a run folder: an exported program, the fitted preparation, a signature."""

import copy
import importlib.metadata
import json
import logging
import platform
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch
import yaml
from torch import Tensor, nn

from mtl_runner.datasets.prepared import Prepared, read_preparation
from mtl_runner.errors import UserError
from mtl_runner.folder import read_specs
from mtl_runner.predictions import columns

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

_log = logging.getLogger(__name__)
_WORDS = {"bool": "boolean", "int8": "integer", "int16": "integer", "int32": "integer", "int64": "long"}
_REQUIREMENTS = ("mtl-runner", "torch", "mlflow", "pandas", "pyarrow")


def package(folder: Path, model: nn.Module) -> Path | None:
    """Makes ``model/``, which ``mlflow models serve`` and ``mlflow.pyfunc.load_model`` read; one that is there is replaced.

    The code in it is this package's (``mtl_runner/serving/code.py``), so that it loads where the package is installed.
    Returns None, and says why, for a network that ``torch.export`` cannot follow: a trained run is not lost over it.

    Args:
        folder: the run folder, with its ``data.json``.
        model: from inputs by stream and field to raw outputs by task; it is left as it is, wherever it is.
    """
    if (target := folder / "model").exists():
        shutil.rmtree(target)
    data = json.loads((folder / "data.json").read_text(encoding="utf-8"))
    try:
        preparation, *others = read_preparation(data["preparation"]).values()
    except (UserError, KeyError):
        _log.warning("no MLflow model of this run, as its data set's preparation is not one of this package's")
        return None
    if others or (rows := preparation.blank(2)) is None:
        why = "its tasks have several input streams" if others else "its inputs do not fit into columns"
        _log.warning("no MLflow model of this run, as %s; mtl predict reads them", why)
        return None
    inputs = {preparation.stream: preparation.inputs(rows)}
    try:
        program = export(model, inputs)
    except Exception as error:  # noqa: BLE001 - torch.export raises whatever it comes across in the network's code
        _log.warning("no MLflow model of this run, as torch.export cannot follow its network: %s", str(error).splitlines()[0])
        return None
    with torch.inference_mode():
        predicted = columns(program.module()(inputs), read_specs(data)[1], preparation.context(rows))
    (target / "artifacts").mkdir(parents=True)
    torch.export.save(program, target / "artifacts" / "program.pt2")
    shutil.copyfile(folder / "data.json", target / "artifacts" / "data.json")
    _describe(target, _signature(preparation, predicted))
    return target


def export(model: nn.Module, inputs: Mapping[str, Mapping[str, Tensor]]) -> torch.export.ExportedProgram:
    """The model in evaluation mode on the CPU, for any number of rows.

    Args:
        model: is copied.
        inputs: an example of two rows (of one, the number of rows would be taken for a constant).
    """
    rows = torch.export.Dim("rows")
    shapes = ({stream: {name: {0: rows} for name in fields} for stream, fields in inputs.items()},)
    return torch.export.export(copy.deepcopy(model).cpu().eval(), (dict(inputs),), dynamic_shapes=shapes, strict=False)


def _signature(preparation: Prepared, predicted: Mapping[str, pa.Array]) -> "ModelSignature":
    """The input columns by name, each of any type and optional, as the preparation says what a cell may be.

    MLflow's ``double`` would refuse a frame with a column of integers, and a text that means missing.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec
    from mlflow.types.schema import AnyType

    anything = AnyType()  # type: ignore[no-untyped-call]
    inputs: list[ColSpec | TensorSpec] = [ColSpec(anything, name, required=False) for name in preparation.columns]
    return ModelSignature(Schema(inputs), Schema([ColSpec(_as_mlflow(column.type), name) for name, column in predicted.items()]))


def _as_mlflow(kind: pa.DataType) -> Any:
    """MLflow's word for a type, or its object for lists."""
    from mlflow.types.schema import Array

    if pa.types.is_dictionary(kind):
        return "string"
    return Array(_as_mlflow(kind.value_type)) if pa.types.is_nested(kind) else _WORDS.get(str(kind), str(kind))


def _describe(target: Path, signature: "ModelSignature") -> None:
    """Beside the artifacts, what ``mlflow.pyfunc.save_model`` would write.

    That function looks through every file of every installed package first, to see whether the requirements are met: seconds.
    """
    from mlflow.models import Model

    shutil.copyfile(Path(__file__).with_name("code.py"), target / "code.py")
    requirements, python = _requirements(), platform.python_version()
    (target / "requirements.txt").write_text("\n".join(requirements), encoding="utf-8")
    _write_yaml(target / "python_env.yaml", {"python": python, "dependencies": ["-r requirements.txt"]})
    conda = {
        "channels": ["conda-forge"],
        "dependencies": [f"python={python}", "pip", {"pip": requirements}],
        "name": "mlflow-env",
    }
    _write_yaml(target / "conda.yaml", conda)
    model = Model(signature=signature)
    model.add_flavor(
        "python_function",
        loader_module="mlflow.pyfunc.loaders.code_model",
        model_code_path="code.py",
        artifacts={path.stem: {"path": f"artifacts/{path.name}"} for path in sorted((target / "artifacts").iterdir())},
        env={"conda": "conda.yaml", "virtualenv": "python_env.yaml"},
        python_version=python,
        streamable=False,
    )
    model.model_size_bytes = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    model.save(target / "MLmodel")


def _write_yaml(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(yaml.safe_dump(dict(content), sort_keys=False), encoding="utf-8")


def _requirements() -> list[str]:
    """This environment's versions, without the local part of them (``+cpu``), which a package index does not have."""
    return [f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in _REQUIREMENTS if _installed(name)]


def _installed(name: str) -> bool:
    try:
        return bool(importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:  # a checkout that was not installed
        return False
