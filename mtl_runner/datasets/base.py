"""What every data set has in common: its tasks' options, training only some of them, and the fingerprint."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeVar, cast, get_args

from torch import Tensor

from mtl_runner.batch import Data, Role, Split, TargetSpec
from mtl_runner.datasets.kinds import KINDS
from mtl_runner.errors import UserError, choices, nearest

Value = TypeVar("Value")
Tasks = Mapping[str, Mapping[str, Any] | None] | Sequence[str]
"""Names of tasks, or a mapping from a task's name to its options (null: none)."""


class Dataset(ABC):
    """Where examples come from. Constructor keywords are the option's configuration keys; nothing is read before ``load``."""

    provides: ClassVar[frozenset[str]] = frozenset()
    """The fields that its inputs have, where that is known before any data is read."""

    @abstractmethod
    def load(self) -> Data:
        """Read, split and prepare everything.

        Raises ``UserError`` for files that are not there and for data that cannot be used.
        """


@dataclass(frozen=True)
class TaskOptions:
    """What a user may say about a task."""

    name: str
    type: str | None = None
    """One of ``KINDS``; None: guessed."""
    columns: tuple[str, ...] = ()
    """Names or patterns of columns; empty: the task's name."""
    role: Role = "main"
    metric: str | None = None
    positive: tuple[str, ...] = ()
    """Values of the column that mean yes (binary)."""
    classes: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    """Those of the type itself, as ``KINDS`` has them."""
    listed: bool = False
    """Whether the user wrote a list of names, so that there is no mapping with options to add to."""


def task_options(
    tasks: Tasks, allowed: Collection[str], kinds: Collection[str] | Mapping[str, str] = tuple(KINDS)
) -> dict[str, TaskOptions]:
    """The tasks' options, checked: only the keys in ``allowed``, and those of the task's type.

    Args:
        tasks: as the user wrote them.
        allowed: the keys that the data set knows.
        kinds: the types that it has; or the type of each task, where the data set fixes it.
    """
    named = tasks if isinstance(tasks, Mapping) else dict.fromkeys(tasks)
    if not named:
        raise UserError("dataset.tasks names no task")
    if "average" in named:
        raise UserError("dataset.tasks: average is what the mean over the tasks is called; give the task another name")
    checked = {str(name): _options(str(name), options or {}, allowed, kinds) for name, options in named.items()}
    listed = not isinstance(tasks, Mapping)
    return {name: replace(options, listed=listed) for name, options in checked.items()}


def _options(
    name: str, options: Mapping[str, Any], allowed: Collection[str], kinds: Collection[str] | Mapping[str, str]
) -> TaskOptions:
    place = f"dataset.tasks.{name}"
    if not isinstance(options, Mapping):
        raise UserError(f"{place}: {options!r} is not a mapping of options; allowed: {choices(allowed)}")
    fixed = kinds.get(name) if isinstance(kinds, Mapping) else None
    kind = options.get("type") if "type" in allowed else fixed
    if kind is not None and fixed is None:
        known(kind, kinds, f"{place}.type")
    own = KINDS.get(str(kind), ())
    for key in options:
        known(str(key), (*allowed, *own), f"{place}: option")
    role = options.get("role") or "main"
    known(role, get_args(Role), f"{place}.role")
    metric = options.get("metric")
    return TaskOptions(
        name,
        kind,
        texts(options.get("columns")),
        cast(Role, role),
        None if metric is None else str(metric),
        texts(options.get("positive")),
        texts(options.get("classes")),
        {key: options[key] for key in own if options.get(key) is not None},
    )


def known(typed: object, allowed: Iterable[str], place: str) -> None:
    """Raises unless ``typed`` is one of ``allowed``; ``place`` starts the message."""
    names = list(allowed)
    if typed not in names:
        raise UserError(f"{place} '{typed}' does not exist{nearest(typed, names)}; allowed: {choices(names)}")


def texts(value: object) -> tuple[str, ...]:
    """A value or a list of values, as texts; null is no value. Booleans are spelt as in a file: ``true``, ``false``."""
    if value is None:
        return ()
    values = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    return tuple(str(one).lower() if isinstance(one, bool) else str(one) for one in values)


def select(data: Data, only: Sequence[str] | None) -> Data:
    """The same data with only these tasks (None: all): rows, inputs and preparation stay as they are."""
    if only is None:
        return data
    if not only:
        raise UserError(f"dataset.only names no task; allowed: {choices(data.targets)}")
    for name in only:
        known(name, data.targets, "dataset.only: task")

    def narrow(split: Split) -> Split:
        return replace(split, targets=kept(split.targets), streams=kept(split.streams), weights=kept(split.weights))

    def kept(values: Mapping[str, Value]) -> dict[str, Value]:
        return {name: value for name, value in values.items() if name in only}

    return replace(data, splits={part: narrow(split) for part, split in data.splits.items()}, targets=kept(data.targets))


def described(spec: TargetSpec, options: TaskOptions) -> TargetSpec:
    """The target with the role, the primary metric and the type's own options that the user chose, beside those fitted."""
    return replace(spec, role=options.role, metric=options.metric, options={**options.options, **spec.options})


def fingerprint(splits: Mapping[str, Split]) -> str:
    """Hash of every number in every part, in order: 16 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=8)
    for part, split in splits.items():
        digest.update(part.encode())
        for stream, fields in split.inputs.items():
            for name, tensor in fields.items():
                _update(digest, f"{stream}/{name}", tensor)
        for group in (split.targets, split.weights):
            for name, tensor in group.items():
                _update(digest, name, tensor)
    return digest.hexdigest()


def _update(digest: "hashlib.blake2b", name: str, tensor: Tensor) -> None:
    digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
    digest.update(tensor.contiguous().numpy().data.cast("B") if tensor.numel() else b"")
