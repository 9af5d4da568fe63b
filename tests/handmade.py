"""Data and trainers that tests make by hand."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mtl_runner import build
from mtl_runner.batch import Batch, Data, StreamSpec, TargetSpec
from mtl_runner.config import config_dir
from mtl_runner.config.schema import plain
from mtl_runner.seeding import generator
from mtl_runner.trainer import Trainer
from mtl_runner.training import Training

PARTS = ("train", "validation", "test")
TASKS = {
    "yes": TargetSpec("binary", classes=("no", "yes")),
    "sort": TargetSpec("multiclass", classes=("a", "b", "c")),
    "size": TargetSpec("regression", center=(10.0,), scale=(2.0,)),
    "pair": TargetSpec("regression", shape=(2,), columns=("u", "v")),
}
"""One task of each shape of target, all on one stream."""


def options(group: str) -> list[str]:
    """The options of a group, from the files in ``conf/``."""
    return sorted(path.stem for path in (config_dir() / group).glob("*.yaml"))


def made(
    tasks: Mapping[str, TargetSpec] = TASKS,
    fields: Mapping[str, tuple[int, ...]] | None = None,
    rows: Mapping[str, int] | None = None,
    seed: int = 0,
) -> Data:
    """Random inputs and targets that depend on them.

    Args:
        tasks: what is to be predicted; each task's targets depend on its name alone.
        fields: shape of one example of each stream: one number is that many columns, three are an image.
        rows: of each stream, in each part.
    """
    shapes = fields or {"input": (6,)}
    splits = {
        part: _split(tasks, shapes, rows or dict.fromkeys(shapes, 50), lambda *names, part=part: generator(seed, part, *names))
        for part in PARTS
    }
    streams = {name: StreamSpec({_field(shape): shape}) for name, shape in shapes.items()}
    return Data(splits, streams, dict(tasks), {}, "made by hand")


def two_streams(image: bool = False) -> Data:
    """Tasks with rows of their own: one on the left, three on the right; vectors of different width, or images."""
    tasks = {name: replace(spec, stream="left" if name == "yes" else "right") for name, spec in TASKS.items()}
    shapes = {"left": (1, 6, 6), "right": (1, 6, 6)} if image else {"left": (6,), "right": (3,)}
    return made(tasks, shapes, {"left": 70, "right": 45})


def copies(count: int, seed: int = 0) -> Data:
    """The same task ``count`` times."""
    names = [f"copy_{i}" for i in range(count)]
    data = made(dict.fromkeys(names, TASKS["sort"]), seed=seed)
    same = {part: replace(split, targets=dict.fromkeys(names, split.targets[names[0]])) for part, split in data.splits.items()}
    return replace(data, splits=same)


def with_part(data: Data, part: str, **changes: Any) -> Data:
    """The data with some things of one part replaced."""
    return replace(data, splits={**data.splits, part: replace(data.splits[part], **changes)})


def training_on(data: Data, config: Any) -> Training:
    """Everything that training needs, on the CPU, for data that no data set reads."""
    node = plain(config)
    model = build.make_model(node, data.streams, data.targets)
    return build.make_training(node, build.trainer_options(node["trainer"]), data, model, torch.device("cpu"))


def trainer_on(data: Data, config: Any) -> Trainer:
    """The one trainer of a mode that couples the tasks."""
    (trainer,) = training_on(data, config).trainers
    return trainer


def same(one: Any, other: Any) -> bool:
    """Whether nested plain values and tensors are equal, bit for bit."""
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, Mapping):
        return isinstance(other, Mapping) and one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def checkpoint(folder: Path, name: str) -> Any:
    """The content of ``checkpoints/<name>.pt``."""
    return torch.load(folder / "checkpoints" / f"{name}.pt", weights_only=True)


def _field(shape: tuple[int, ...]) -> str:
    return "image" if len(shape) == 3 else "numeric"


def _split(tasks: Mapping[str, TargetSpec], shapes: Mapping[str, tuple[int, ...]], rows: Mapping[str, int], draws: Any) -> Batch:
    inputs = {name: torch.randn(rows[name], *shape, generator=draws("inputs", name)) for name, shape in shapes.items()}
    targets = {name: _target(name, spec, inputs[spec.stream], draws("noise", name)) for name, spec in tasks.items()}
    return Batch(
        {name: {_field(shapes[name]): value} for name, value in inputs.items()},
        targets,
        {name: spec.stream for name, spec in tasks.items()},
    )


def _target(name: str, spec: TargetSpec, inputs: Tensor, noise: torch.Generator) -> Tensor:
    flat = inputs.flatten(1)
    width = max(len(spec.classes), *spec.shape, 1)
    scores = flat @ torch.randn(flat.shape[1], width, generator=generator(0, "truth", name))
    scores += 0.1 * torch.randn(scores.shape, generator=noise)
    if spec.kind == "multiclass":
        return scores.argmax(1)
    if spec.kind == "binary":
        return (scores[:, 0] > 0).float()
    return scores if spec.shape else scores[:, 0]
