"""Data that a function of one's own makes."""

import importlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mtl_runner.batch import Data, Split, StreamSpec, TargetSpec
from mtl_runner.datasets.base import Dataset, fingerprint, select
from mtl_runner.errors import UserError, choices, nearest

PARTS = ("train", "validation", "test")


class Python(Dataset):
    """What ``module:function`` returns, called with ``options`` as keyword arguments.

    That is a ``mtl_runner.batch.Data``: a ``Split`` for ``train``, ``validation`` and ``test``, a ``StreamSpec`` for each input
    stream and a ``TargetSpec`` for each task. Its shapes are checked, and a fingerprint is made where it has none. With the
    ``preparation`` of one of this package's data sets, ``mtl predict`` reads raw rows; without, it cannot.

    A configuration may name the function only where its module is allowed on the command line: ``allow_modules=[module]``. A
    module in the working folder is found.

    Args:
        function: ``module:function``.
        options: its keyword arguments.
        only: train only these tasks.
    """

    def __init__(self, function: str, options: dict[str, Any] | None = None, only: list[str] | None = None) -> None:
        module, colon, name = function.partition(":")
        if not colon or not module or not name.isidentifier():
            raise UserError(f"dataset.function={function}: module:function is expected, such as my_data:load")
        self.module, self.name, self.options, self.only = module, name, dict(options or {}), only

    @staticmethod
    def modules_of(values: Mapping[str, Any]) -> dict[str, str]:
        """The module that each key would have it import."""
        return {"function": str(values.get("function")).partition(":")[0]}

    def load(self) -> Data:
        """Import the module, call the function and check what it returns."""
        function = getattr(_imported(self.module), self.name, None)
        place = f"dataset.function={self.module}:{self.name}"
        if not callable(function):
            names = [name for name, value in vars(_imported(self.module)).items() if callable(value)]
            raise UserError(f"{place}: there is no such function in it{nearest(self.name, names)}")
        data = function(**self.options)
        if not isinstance(data, Data):
            raise UserError(f"{place} returns {type(data).__name__}; mtl_runner.batch.Data is expected")
        if wrong := problems(data):
            raise UserError(f"{place}: {wrong[0]}")
        preparation = data.preparation or {"kind": "python"}
        known = data.fingerprint or fingerprint(data.splits)
        return select(replace(data, preparation=preparation, fingerprint=known), self.only)


def _imported(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and not module.startswith(error.name):
            raise
        raise UserError(f"dataset.function: there is no module {module}") from None


def problems(data: Data) -> list[str]:
    """What is wrong with it, a line each."""
    if set(data.splits) != set(PARTS):
        return [f"splits are {choices(data.splits)}; expected are {choices(PARTS)}"]
    lines = [
        f"task {name} reads stream '{spec.stream}'; there are {choices(data.streams)}"
        for name, spec in data.targets.items()
        if spec.stream not in data.streams
    ]
    if not data.targets:
        lines.append("there is no task")
    for part, split in data.splits.items():
        lines += [f"{part}: stream '{name}' has no inputs" for name in data.streams if name not in split.inputs]
        lines += [f"{part}: task {name} has no targets" for name in data.targets if name not in split.targets]
        if not lines:
            lines += _shapes(part, split, data.streams, data.targets)
    return lines


def _shapes(part: str, split: Split, streams: Any, targets: Any) -> list[str]:
    lines = []
    for stream, spec in streams.items():
        lines += _stream_shapes(part, stream, split, spec)
    for name, spec in targets.items():
        lines += _target_shape(part, name, split, spec)
    return lines


def _stream_shapes(part: str, stream: str, split: Split, spec: StreamSpec) -> list[str]:
    fields, rows = split.inputs[stream], split.size(stream)
    if set(fields) != set(spec.fields):
        return [f"{part}: stream '{stream}' has the fields {choices(fields)}; its StreamSpec has {choices(spec.fields)}"]
    shapes = {name: (tuple(value.shape), (rows, *spec.fields[name])) for name, value in fields.items()}
    wrong = {name: pair for name, pair in shapes.items() if pair[0] != pair[1]}
    return [f"{part}: {stream}.{name} is {is_}; {expected} is expected" for name, (is_, expected) in wrong.items()]


def _target_shape(part: str, name: str, split: Split, spec: TargetSpec) -> list[str]:
    rows, target = split.size(spec.stream), split.targets[name]
    if split.streams.get(name) != spec.stream:
        return [f"{part}: split.streams says that task {name} reads '{split.streams.get(name)}', its TargetSpec '{spec.stream}'"]
    if len(target) != rows:
        return [f"{part}: task {name} has {len(target)} targets; its stream has {rows} rows"]
    return []
