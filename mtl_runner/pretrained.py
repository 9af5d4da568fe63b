"""Start from the shared part of an earlier run."""

from collections.abc import Mapping

from torch import Tensor

from mtl_runner import checkpoint
from mtl_runner.batch import Data
from mtl_runner.encoders.base import Encoder
from mtl_runner.errors import UserError
from mtl_runner.folder import RunFolder
from mtl_runner.model import MultiTaskModel
from mtl_runner.tracking import locate

PREFIX = "sharing.encoder."
"""Where a shared encoder lies in a model's state dict."""


def start_from(model: MultiTaskModel, data: Data, run: str, frozen: bool = False) -> str:
    """Load the shared encoder of ``run`` into every encoder of ``model``; says in a line what was loaded.

    Stages beyond those that the run shared keep their initial weights. ``frozen`` leaves what was loaded out of training.

    Args:
        model: untrained.
        data: of the new run; its inputs have to be those of ``run``: same fields, same columns, same categories.
        run: a run folder or an MLflow run id.
        frozen: whether the loaded part stays as it is.

    Raises:
        UserError: the run shares nothing, or its inputs or its encoder differ.
    """
    folder = RunFolder(locate(run))
    state: Mapping[str, Tensor] = checkpoint.load(folder.best)
    shared = {name.removeprefix(PREFIX): value for name, value in state.items() if name.startswith(PREFIX)}
    if not shared:
        raise UserError(f"init_from.run={run}: this run has no shared part; one that was trained with sharing=hard has")
    _check_inputs(folder, data, run)
    loaded = sum(_load(encoder, shared, run, frozen) for encoder in model.sharing.encoders())
    return f"note: {loaded:,} parameters start from {run}{' and stay frozen' if frozen else ''}"


def _load(encoder: Encoder, shared: Mapping[str, Tensor], run: str, frozen: bool) -> int:
    own = encoder.state_dict()
    fitting = {name: value for name, value in shared.items() if name in own}
    wrong = [name for name, value in fitting.items() if value.shape != own[name].shape]
    if wrong or not fitting:
        what = (
            f"{wrong[0]} is {tuple(fitting[wrong[0]].shape)} there and {tuple(own[wrong[0]].shape)} here"
            if wrong
            else "nothing fits"
        )
        raise UserError(f"init_from.run={run}: its encoder is another one ({what}); use the same encoder options")
    encoder.load_state_dict(fitting, strict=False)
    parameters = [parameter for name, parameter in encoder.named_parameters() if name in fitting]
    for parameter in parameters:
        parameter.requires_grad_(not frozen)
    return sum(parameter.numel() for parameter in parameters)


def _check_inputs(folder: RunFolder, data: Data, run: str) -> None:
    """Columns and categories have to mean the same; centre and scale of a number may differ."""
    streams, _ = folder.read_specs()
    before = folder.read_json("data.json")["preparation"]
    for name, spec in data.streams.items():
        there = streams.get(name)
        if there is None or dict(there.fields) != dict(spec.fields) or dict(there.names) != dict(spec.names):
            raise UserError(
                f"init_from.run={run}: its inputs are {there.fields if there else list(streams)}, and here {dict(spec.fields)}"
            )
    if before.get("categories") != data.preparation.get("categories"):
        raise UserError(f"init_from.run={run}: the categories of its inputs are others than those of this data set")
