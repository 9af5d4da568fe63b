"""What flows through the program: tensors by input stream and by task.

Shape legend: N examples, T tasks of one kind that run as one, C classes (always the last axis), K outputs of a regression.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

Fields = Mapping[str, Tensor]
"""One stream's input by field: ``numeric`` [N, D], ``categorical`` [N, K] (integer), ``image`` [N, channels, height, width],
``tokens`` [N, length] (integer, 0 is padding), ``characters`` [N, length, letters] (integer, 0 is padding) …"""

Role = Literal["main", "auxiliary"]
SEQUENCES = ("tokens", "characters")
"""Fields whose first axis after the examples are the positions of a sequence."""
MISSING = -100
"""Label of an example that has none, where labels are integers; where they are floats it is NaN."""


@dataclass(frozen=True)
class StreamSpec:
    """What one input stream looks like, per example."""

    fields: Mapping[str, tuple[int, ...]]
    """Shape of one example of each field: ``{"numeric": (14,), "categorical": (8,)}`` or ``{"image": (1, 8, 8)}``."""
    cardinalities: tuple[int, ...] = ()
    """Number of categories of each column of ``categorical``, the index for unseen and missing ones included."""
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Names of the columns of a field, where they have any."""
    vocabulary: int = 0
    """Number of different ``tokens``, 0 (padding) and 1 (unknown) included."""
    characters: int = 0
    """Number of different ``characters``, 0 (padding) and 1 (unknown) included."""


@dataclass(frozen=True)
class Decision:
    """How logits become probabilities and classes: chosen after training, without a change to the model.

    Probabilities are those of logits / temperature, the predicted class that of logits / temperature + offsets: the largest,
    or, of a binary task, the positive one where it is above 0.
    """

    temperature: float = 1.0
    offsets: tuple[float, ...] = ()
    """One number for each class, or a single one for a binary task; empty: none."""

    def calibrated(self, logits: Tensor) -> Tensor:
        """Logits [N] or [N, C] of the probabilities."""
        return logits if self.temperature == 1 else logits / self.temperature

    def shifted(self, logits: Tensor) -> Tensor:
        """Logits [N] or [N, C] of the predicted class."""
        if not self.offsets:
            return logits  # a division may round two of them to the same number
        calibrated = self.calibrated(logits)
        offsets = calibrated.new_tensor(self.offsets)
        return calibrated + (offsets if calibrated.ndim > 1 else offsets[0])


@dataclass(frozen=True)
class TargetSpec:
    """What one task predicts."""

    kind: str
    """The task's type: ``binary``, ``multiclass``, ``regression`` …: the name of a file in ``tasks/``."""
    stream: str = "input"
    role: Role = "main"
    classes: tuple[str, ...] = ()
    """Class names in the order of the labels; ``(negative, positive)`` for a binary task; empty where there are none."""
    columns: tuple[str, ...] = ()
    """The columns of the source that hold it."""
    shape: tuple[int, ...] = ()
    """Shape of one example's target: ``()`` for a number or a class, ``(K,)`` for K outputs."""
    center: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    """Value in the user's unit = center + scale · target, per output; empty where targets are not scaled."""
    metric: str | None = None
    """The primary metric, where it is not the first of its kind."""
    decision: Decision = Decision()
    """How its outputs are read; for tasks with classes."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """What the type itself can be told: ``{"loss": "huber"}``; JSON."""


@dataclass(frozen=True)
class Batch:
    """Some examples: a step's worth of them, or a whole part of the data.

    Several streams have rows of their own: row i of one stream is not row i of another. A task's targets and
    weights are aligned with the rows of its stream.
    """

    inputs: Mapping[str, Fields]
    """By input stream."""
    targets: Mapping[str, Tensor]
    """By task, [N, …]; NaN (float) or -100 (integer) where there is no label."""
    streams: Mapping[str, str]
    """The input stream that each task reads."""
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    """By task, optional: a weight per example, [N]."""
    context: Mapping[str, Fields] = field(default_factory=dict)
    """By stream: ``row`` (position in the source), ``group`` …; for metrics and checks, never an input."""

    def size(self, stream: str) -> int:
        """Number of rows of a stream."""
        return len(next(iter(self.inputs[stream].values())))

    def take(self, rows: Mapping[str, Tensor]) -> "Batch":
        """The examples at ``rows``, an index tensor for each stream. ``index_select`` takes a sixth of the time of ``[]``."""
        return replace(
            self,
            inputs={
                stream: {name: value.index_select(0, rows[stream]) for name, value in fields.items()}
                for stream, fields in self.inputs.items()
            },
            targets={task: value.index_select(0, rows[self.streams[task]]) for task, value in self.targets.items()},
            weights={task: value.index_select(0, rows[self.streams[task]]) for task, value in self.weights.items()},
            context={
                stream: {name: value.index_select(0, rows[stream]) for name, value in fields.items()}
                for stream, fields in self.context.items()
            },
        )

    def part(self, start: int, stop: int) -> "Batch":
        """The examples from ``start`` on and before ``stop`` of every stream, without a copy."""
        rows = slice(start, stop)
        return replace(
            self,
            inputs={stream: {name: value[rows] for name, value in fields.items()} for stream, fields in self.inputs.items()},
            targets={task: value[rows] for task, value in self.targets.items()},
            weights={task: value[rows] for task, value in self.weights.items()},
            context={stream: {name: value[rows] for name, value in fields.items()} for stream, fields in self.context.items()},
        )

    def trimmed(self, positioned: Collection[str] = ()) -> "Batch":
        """A packed batch without the positions at the end of the sequences where every example of a stream has padding.

        Args:
            positioned: the targets [N, T, L, …] (and weights) whose third axis are the positions.
        """
        lengths = {stream: _longest(fields["tokens"]) for stream, fields in self.inputs.items() if "tokens" in fields}
        if all(lengths[stream] == self.inputs[stream]["tokens"].shape[1] for stream in lengths):
            return self

        cut = {task for task in positioned if self.streams[task] in lengths}

        def of_stream(stream: str, fields: Fields) -> Fields:
            return {name: value[:, : lengths[stream]] if name in SEQUENCES else value for name, value in fields.items()}

        def of_tasks(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {
                task: value[:, :, : lengths[self.streams[task]]] if task in cut and value.ndim > 2 else value
                for task, value in values.items()
            }

        inputs = {stream: of_stream(stream, fields) if stream in lengths else fields for stream, fields in self.inputs.items()}
        return replace(self, inputs=inputs, targets=of_tasks(self.targets), weights=of_tasks(self.weights))

    def chunk(self, count: int) -> "list[Batch]":
        """``count`` batches of every ``count``-th row; the whole batch each time where a stream has not two rows for each."""
        if count == 1 or any(self.size(stream) < 2 * count for stream in self.inputs):
            return [self] * count
        rows = {
            stream: torch.arange(self.size(stream), device=next(iter(fields.values())).device)
            for stream, fields in self.inputs.items()
        }
        return [self.take({stream: index[start::count] for stream, index in rows.items()}) for start in range(count)]

    def only(self, tasks: Collection[str]) -> "Batch":
        """The same rows with these tasks and the streams that they read."""
        streams = {task: self.streams[task] for task in tasks}
        used = set(streams.values())
        return Batch(
            {stream: fields for stream, fields in self.inputs.items() if stream in used},
            {task: self.targets[task] for task in tasks},
            streams,
            {task: self.weights[task] for task in tasks if task in self.weights},
            {stream: fields for stream, fields in self.context.items() if stream in used},
        )

    def to(self, device: torch.device | str) -> "Batch":
        """The same examples on ``device``."""
        return replace(
            self,
            inputs={stream: {name: value.to(device) for name, value in fields.items()} for stream, fields in self.inputs.items()},
            targets={task: value.to(device) for task, value in self.targets.items()},
            weights={task: value.to(device) for task, value in self.weights.items()},
        )


def joined(batches: Sequence[Batch]) -> Batch:
    """The examples of several batches of the same tasks, one after the other; inputs are those of the first alone."""
    first = batches[0]
    if len(batches) == 1:
        return first

    def of(values: Callable[[Batch], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        return {name: torch.cat([values(batch)[name] for batch in batches]) for name in values(first)}

    context = {stream: of(lambda batch, stream=stream: batch.context[stream]) for stream in first.context}  # type: ignore[misc]
    return replace(first, targets=of(lambda batch: batch.targets), weights=of(lambda batch: batch.weights), context=context)


def _longest(tokens: Tensor) -> int:
    """Positions of [N, length] up to the last one that is no padding; 1 where there is none."""
    there = (tokens != 0).any(0).nonzero()
    return int(there[-1]) + 1 if len(there) else 1


Split = Batch
"""A part of the data (train, validation, test) is one large batch."""


@dataclass(frozen=True)
class Data:
    """What a data set returns."""

    splits: Mapping[str, Split]
    """``train``, ``validation``, ``test``."""
    streams: Mapping[str, StreamSpec]
    targets: Mapping[str, TargetSpec]
    """By task, in the order of the configuration."""
    preparation: Mapping[str, Any]
    """Fitted on the training part; JSON; all that prediction needs to read raw rows."""
    fingerprint: str = ""
    """Hash of the data as they were read: two runs with the same one saw the same data."""
    notes: tuple[str, ...] = ()
    """What was guessed, left out or repaired, one line each; said once."""
    skipped: tuple[str, ...] = ()
    """``file, line: reason`` of what could not be used and was passed over, as ``on_error: skip`` has it."""
    augmentation: "Augmentation | None" = None
    """Changes the examples of a training batch; its targets are by task, with missing labels."""


Augmentation = Callable[[Batch, torch.Generator], Batch]
"""A batch whose examples were changed at random, from the draws of the generator (on the CPU) alone."""


def example(spec: StreamSpec) -> Fields:
    """One example of a stream without content: numbers are 0, categories and tokens unknown."""
    empty = {"categorical": torch.zeros, "tokens": torch.ones, "characters": torch.ones}
    return {
        name: empty[name](1, *shape, dtype=torch.long) if name in empty else torch.zeros(1, *shape)
        for name, shape in spec.fields.items()
    }


def labelled(targets: Tensor) -> Tensor:
    """Boolean, the shape of ``targets``: where there is a label."""
    return ~targets.isnan() if targets.is_floating_point() else targets != MISSING
