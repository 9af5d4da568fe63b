"""Start from the shared part of an earlier run."""

from collections.abc import Iterable, Mapping
from typing import Any

from omegaconf import OmegaConf
from torch import Tensor

from mtl_runner import checkpoint
from mtl_runner.batch import Data
from mtl_runner.encoders.base import Encoder
from mtl_runner.errors import UserError, choices
from mtl_runner.folder import RunFolder
from mtl_runner.tracking import locate

PREFIX = "sharing.encoder."
"""Where a shared encoder lies in a model's state dict."""
EXTRA = "_extra_state"
"""End of the names of entries that are not tensors of weights."""


class Start:
    """The shared encoder of ``run``, to be loaded into every encoder of a new model.

    Stages beyond those that the run shared keep their initial weights. ``frozen`` leaves what was loaded out of training.

    Args:
        data: of the new run; its inputs have to be those of ``run``: same fields, same columns, same categories.
        run: a run folder or an MLflow run id.
        frozen: whether the loaded part stays as it is.
        encoder: options of the new run's encoder, to be compared with those of ``run``.

    Raises:
        UserError: the run shares nothing, or its inputs or its encoder differ.
    """

    def __init__(self, data: Data, run: str, frozen: bool = False, encoder: Mapping[str, Any] | None = None) -> None:
        self.run = run
        self.frozen = frozen
        self.loaded = 0
        """Parameters of an encoder that were loaded."""
        folder = RunFolder(locate(run))
        state: Mapping[str, Tensor] = checkpoint.load(folder.best)
        self.shared = {
            name.removeprefix(PREFIX): value
            for name, value in state.items()
            if name.startswith(PREFIX) and not name.endswith(EXTRA)  # dropout's place in its sequence is no weight
        }
        if not self.shared:
            raise UserError(f"init_from.run={run}: this run has no shared part; one that was trained with sharing=hard has")
        _check_inputs(folder, data, run)
        _check_words(folder, encoder or {}, run)

    def load(self, encoder: Encoder) -> None:
        """Give the encoder the run's weights, as far as it goes.

        Raises:
            UserError: it is another one.
        """
        own = {name: value for name, value in encoder.state_dict().items() if not name.endswith(EXTRA)}
        both = _parts(own) & _parts(self.shared)
        here = {name: tuple(value.shape) for name, value in own.items() if _part(name) in both}
        there = {name: tuple(value.shape) for name, value in self.shared.items() if _part(name) in both}
        if not both or here != there:
            name = next((name for name in (here | there) if here.get(name) != there.get(name)), None)
            what = f"{name} is {there.get(name, 'absent')} there and {here.get(name, 'absent')} here" if name else "nothing fits"
            raise UserError(f"init_from.run={self.run}: its encoder is another one ({what}); use the same encoder options")
        encoder.load_state_dict({name: self.shared[name] for name in there}, strict=False)
        parameters = [parameter for name, parameter in encoder.named_parameters() if name in there]
        for parameter in parameters:
            parameter.requires_grad_(not self.frozen)
        self.loaded = sum(parameter.numel() for parameter in parameters)

    def line(self) -> str:
        """What was loaded, for people."""
        stay = " and stay frozen" if self.frozen else ""
        return f"note: {self.loaded:,} parameters of each encoder start from {self.run}{stay}"


def _part(name: str) -> str:
    """The stem or stage that an entry of an encoder's state dict belongs to: ``stages.0`` of ``stages.0.1.weight``."""
    return ".".join(name.split(".")[:2])


def _parts(names: Iterable[str]) -> set[str]:
    return {_part(name) for name in names}


def _check_words(folder: RunFolder, encoder: Mapping[str, Any], run: str) -> None:
    """Options that are words (class, activation, norm) have to agree: they may leave every shape as it is."""
    stored = OmegaConf.select(OmegaConf.load(folder.path / "config.yaml"), "encoder", default={})
    for key, here in encoder.items():
        if isinstance(here, str) and key in stored and stored[key] != here:
            raise UserError(f"init_from.run={run}: encoder.{key} is {stored[key]} there and {here} here")


def _check_inputs(folder: RunFolder, data: Data, run: str) -> None:
    """Columns and categories have to mean the same; centre and scale of a number may differ."""
    streams, _ = folder.read_specs()
    for name, spec in data.streams.items():
        there = streams.get(name)
        if there is None:
            raise UserError(f"init_from.run={run}: its input streams are {choices(streams)}, and there is no {name} among them")
        if dict(there.fields) != dict(spec.fields):
            raise UserError(f"init_from.run={run}: its inputs are {dict(there.fields)}, and here {dict(spec.fields)}")
        for field, columns in spec.names.items():
            other = next(((a, b) for a, b in zip(there.names.get(field, ()), columns, strict=False) if a != b), None)
            if other:
                raise UserError(f"init_from.run={run}: where its inputs have the column {other[0]}, here there is {other[1]}")
    before = folder.read_json("data.json")["preparation"]
    if _vocabularies(before) != _vocabularies(data.preparation):
        raise UserError(f"init_from.run={run}: the categories of its inputs are others than those of this data set")


def _vocabularies(preparation: Mapping[str, Any]) -> dict[str, list[str]]:
    return {column["name"]: list(column["vocabulary"]) for column in preparation.get("categories", ())}
