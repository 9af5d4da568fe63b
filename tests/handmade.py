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
    specs: Mapping[str, StreamSpec] | None = None,
) -> Data:
    """Random inputs and targets that depend on them.

    Args:
        tasks: what is to be predicted; each task's targets depend on its name alone.
        fields: shape of one example of each stream: one number is that many columns, three are an image.
        rows: of each stream, in each part.
        seed: of the draws.
        specs: of the streams, in place of ``fields``.
    """
    streams = specs or {name: StreamSpec({_field(shape): shape}) for name, shape in (fields or {"input": (6,)}).items()}
    splits = {
        part: _split(tasks, streams, rows or dict.fromkeys(streams, 50), lambda *names, part=part: generator(seed, part, *names))
        for part in PARTS
    }
    return Data(splits, dict(streams), dict(tasks), {}, "made by hand")


KINDS = {
    "numbers": (StreamSpec({"numeric": (6,)}), StreamSpec({"numeric": (3,)})),
    "table": (
        StreamSpec({"numeric": (4,), "categorical": (2,)}, (5, 3)),
        StreamSpec({"numeric": (2,), "categorical": (1,)}, (4,)),
    ),
    "images": (StreamSpec({"image": (1, 6, 6)}),) * 2,
    "tokens": (StreamSpec({"tokens": (7,)}, vocabulary=11), StreamSpec({"tokens": (7,)}, vocabulary=9)),
}
"""What a stream may hold; for two streams, of different width where encoders can tell."""


def kind_of(kind: str, streams: str) -> Data:
    """Data of a kind, on one stream, or on two with rows of their own: a task on the left, three on the right."""
    if streams == "one":
        return made(specs={"input": KINDS[kind][0]})
    tasks = {name: replace(spec, stream="left" if name == "yes" else "right") for name, spec in TASKS.items()}
    return made(tasks, rows={"left": 70, "right": 45}, specs=dict(zip(("left", "right"), KINDS[kind], strict=True)))


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


def _split(tasks: Mapping[str, TargetSpec], streams: Mapping[str, StreamSpec], rows: Mapping[str, int], draws: Any) -> Batch:
    inputs = {name: _inputs(spec, rows[name], draws("inputs", name)) for name, spec in streams.items()}
    targets = {name: _target(name, spec, inputs[spec.stream], draws("noise", name)) for name, spec in tasks.items()}
    return Batch(inputs, targets, {name: spec.stream for name, spec in tasks.items()})


def _inputs(spec: StreamSpec, rows: int, draws: torch.Generator) -> dict[str, Tensor]:
    fields = {}
    for name, shape in spec.fields.items():
        if name == "categorical":
            columns = [torch.randint(cardinality, (rows,), generator=draws) for cardinality in spec.cardinalities]
            fields[name] = torch.stack(columns, 1)
        elif name == "tokens":
            tokens = torch.randint(1, spec.vocabulary, (rows, *shape), generator=draws)
            lengths = torch.randint(1, shape[0] + 1, (rows, 1), generator=draws)
            fields[name] = tokens * (torch.arange(shape[0]) < lengths)
        else:
            fields[name] = torch.randn(rows, *shape, generator=draws)
    return fields


def _target(name: str, spec: TargetSpec, fields: Mapping[str, Tensor], noise: torch.Generator) -> Tensor:
    flat = torch.cat([value.flatten(1).float() for value in fields.values()], 1)
    width = max(len(spec.classes), *spec.shape, 1)
    scores = flat @ torch.randn(flat.shape[1], width, generator=generator(0, "truth", name))
    scores += 0.1 * torch.randn(scores.shape, generator=noise)
    if spec.kind == "multiclass":
        return scores.argmax(1)
    if spec.kind == "binary":
        return (scores[:, 0] > 0).float()
    return scores if spec.shape else scores[:, 0]
