"""What the columns of a task mean: its type where nobody said it, its classes, its scale."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from mtl_runner.datasets.base import TaskOptions
from mtl_runner.datasets.rows.columns import BadValueError, canonical, categories, numbers, order
from mtl_runner.datasets.rows.marks import NO, YES, Marks, read_marks
from mtl_runner.datasets.rows.preparation import Target, read_checked
from mtl_runner.datasets.rows.reading import where
from mtl_runner.datasets.stratify import Floats, Ints, bins
from mtl_runner.errors import UserError, choices, nearest

MOST_GUESSED_CLASSES = 20
CLASSES, NUMBERS = ("binary", "multiclass", "ordinal"), ("regression", "quantile", "count", "reconstruction")
TYPES = (*CLASSES, "multilabel", *NUMBERS, "survival")
"""The types of task whose labels are columns of a table."""
_ONE_COLUMN = (*CLASSES, "quantile", "count")


@dataclass(frozen=True)
class Labels:
    """A task's column as it is read before the split: as classes or as numbers."""

    options: TaskOptions
    kind: str
    columns: tuple[str, ...]
    names: tuple[str, ...] = ()
    """The distinct values of the column in their canonical order (classes)."""
    codes: Ints | None = None
    """Position of each row's value in ``names``, -1 where missing, [N] (classes)."""
    values: Floats | None = None
    """Numbers, NaN where missing, [N, K]; the times of a survival task."""
    marks: Marks | None = None
    """Yes or no, [N, K]: labels of a multilabel task, the event of a survival task."""
    guessed: bool = False

    @property
    def strata(self) -> list[Ints]:
        """What the split is stratified by: classes, or the fifth of the values that a number is in."""
        if self.codes is not None:
            return [self._binary_labels() if self.kind == "binary" else self.codes]
        marks = [] if self.marks is None else list(self.marks.values.T)
        numbers = [] if self.values is None or self.kind == "reconstruction" else list(self.values.T)
        return marks + [bins(column) for column in numbers]

    def _binary_labels(self) -> Ints:
        target = _binary(self)
        other = -1 if target.other is None else target.other
        return np.array([*(target.labels.get(name, other) for name in self.names), -1])[self.codes]

    def fit(self, training: Ints) -> Target:
        """The target, with classes and scale of the training rows."""
        if self.kind == "binary":
            return _binary(self)
        if self.kind in CLASSES:
            return _multiclass(self, training)
        return _numeric(self, training) if self.marks is None else _marked(self, self.marks, training)


def read_labels(table: pa.Table, columns: tuple[str, ...], options: TaskOptions, missing: Sequence[str]) -> Labels:
    """The task's column(s) over all rows.

    Raises ``UserError`` where the column cannot be what the options say.
    """
    kind = options.type or _guessed(table, columns, options, missing)
    guessed = not (options.type or options.positive or options.classes)
    place = f"dataset.tasks.{options.name}"
    if len(columns) > 1 and kind in _ONE_COLUMN:
        raise UserError(f"{place}: a {kind} task has one column, not {len(columns)}: {choices(columns, 5)}")
    if kind in CLASSES:
        names, codes = _classes(table.column(columns[0]), missing)
        labels = Labels(options, kind, columns, names, codes, guessed=guessed)
        if kind == "binary":
            _binary(labels)
        elif options.classes:
            _named(table, labels)
        elif kind == "ordinal":
            _numbered(labels)
        return labels
    if options.classes or (options.positive and kind in NUMBERS):
        raise UserError(f"{place}: a {kind} task has neither classes nor a positive one")
    if kind == "multilabel":
        return Labels(options, kind, columns, marks=read_marks(table, columns, options, missing))
    if kind == "survival":
        if len(columns) != 2:
            raise UserError(f"{place}: a survival task has two columns, the time and the event, not {choices(columns, 5)}")
        times = read_checked(table, columns[0], missing, kind)[:, None]
        return Labels(options, kind, columns, values=times, marks=read_marks(table, columns[1:], options, missing))
    values = np.stack([read_checked(table, column, missing, kind) for column in columns], axis=1)
    return Labels(options, kind, columns, values=values, guessed=guessed)


def _classes(column: pa.ChunkedArray, missing: Sequence[str]) -> tuple[tuple[str, ...], Ints]:
    spellings, positions = categories(column, missing)
    names = tuple(order({value for value in spellings if value is not None}))
    index = {name: place for place, name in enumerate(names)}
    codes = np.array([-1 if value is None else index[value] for value in spellings])[positions]
    present = np.unique(codes[codes >= 0])  # a dictionary may hold values that no row has
    renumbered = np.append(np.searchsorted(present, np.arange(len(names))), -1)
    return tuple(names[place] for place in present), renumbered[codes]


def _guessed(table: pa.Table, columns: tuple[str, ...], options: TaskOptions, missing: Sequence[str]) -> str:
    if options.positive:
        return "binary"
    if len(columns) > 1:
        return "regression"
    names, codes = _classes(table.column(columns[0]), missing)
    if options.classes:
        return "binary" if len(options.classes) == 2 else "multiclass"
    if len(names) <= 2:
        return "binary"
    try:
        values = numbers(table.column(columns[0]), missing)
    except BadValueError:
        if len(names) > max(MOST_GUESSED_CLASSES, (codes >= 0).sum() // 2):
            raise UserError(
                f"dataset.tasks.{options.name}: column '{columns[0]}' holds {len(names)} different texts ({choices(names, 3)}); "
                "name its type if these are classes or numbers with a typing error"
            ) from None
        return "multiclass"
    whole = bool((values[~np.isnan(values)] % 1 == 0).all())
    return "multiclass" if whole and len(names) <= MOST_GUESSED_CLASSES else "regression"


def _binary(labels: Labels) -> Target:
    options, names = labels.options, labels.names
    place = f"dataset.tasks.{options.name}"
    if options.classes and len(options.classes) != 2:
        raise UserError(f"{place}.classes: a binary task has two, negative and positive; typed: {choices(options.classes)}")
    if options.positive:
        positive = [str(canonical(value, ())) for value in options.positive]
        if names and not set(positive) & set(names):
            raise UserError(
                f"{place}.positive '{positive[0]}' is no value of its column{nearest(positive[0], names)}; "
                f"it holds {choices(names)}"
            )
        rest = [name for name in names if name not in positive]
        negative = rest[0] if len(rest) == 1 else f"not {positive[0]}"
        classes = options.classes or (negative, " or ".join(positive))
        return Target("binary", labels.columns, classes, dict.fromkeys(positive, 1), other=0)
    if options.classes:
        classes = tuple(str(canonical(value, ())) for value in options.classes)
        _only(names, classes, place)
        return Target("binary", labels.columns, classes, {classes[0]: 0, classes[1]: 1})
    if len(names) > 2:
        raise UserError(
            f"{place}: column '{labels.columns[0]}' holds {len(names)} values, {choices(names, 10)}; "
            f"say which mean yes ({place}.positive=…) or name another type"
        )
    classes = _pair(names)
    return Target("binary", labels.columns, classes, {classes[0]: 0, classes[1]: 1})


def _pair(names: Sequence[str]) -> tuple[str, str]:
    """(negative, positive): by the meaning of the words, else by their order."""
    if not names:
        return "0", "1"
    if len(names) == 1:
        return (f"not {names[0]}", names[0]) if names[0].lower() in YES else (names[0], f"not {names[0]}")
    first, second = names
    swapped = first.lower() in YES or second.lower() in NO
    return (second, first) if swapped else (first, second)


def _only(names: Sequence[str], allowed: Sequence[str], place: str) -> None:
    if odd := [name for name in names if name not in allowed]:
        raise UserError(f"{place}.classes: the column holds '{odd[0]}' too{nearest(odd[0], allowed)}; named: {choices(allowed)}")


def _named(table: pa.Table, labels: Labels) -> None:
    """Raises for a value that is none of the classes that the user named."""
    allowed = [str(canonical(value, ())) for value in labels.options.classes]
    for code, name in enumerate(labels.names):
        if name not in allowed:
            row = int((labels.codes == code).argmax())  # type: ignore[union-attr]
            said = f"column '{labels.columns[0]}' holds '{name}' too{nearest(name, allowed)}"
            raise UserError(f"{where(table, row)}: {said}; dataset.tasks.{labels.options.name}.classes: {choices(allowed)}")


def _numbered(labels: Labels) -> None:
    """Raises for classes that have no order of their own: numbers have."""
    try:
        [float(name) for name in labels.names]
    except ValueError:
        place = f"dataset.tasks.{labels.options.name}"
        raise UserError(
            f"{place}.classes: in which order are {choices(labels.names, 10)}? An ordinal task needs them, lowest first"
        ) from None


def _multiclass(labels: Labels, training: Ints) -> Target:
    assert labels.codes is not None
    if labels.options.classes:
        classes = tuple(str(canonical(value, ())) for value in labels.options.classes)
    else:
        classes = tuple(labels.names[code] for code in np.unique(labels.codes[training]) if code >= 0)
    return Target(labels.kind, labels.columns, classes, {name: label for label, name in enumerate(classes)})


def _marked(labels: Labels, marks: Marks, training: Ints) -> Target:
    if labels.kind == "multilabel":
        return Target("multilabel", labels.columns, labels=marks.labels, other=marks.other)
    assert labels.values is not None
    times, happened = labels.values[training, 0], marks.values[training, 0] == 1
    cuts = _cuts(labels.options, times[happened & (times > 0)])
    return Target("survival", labels.columns, labels=marks.labels, other=marks.other, options={"cuts": cuts} if cuts else {})


def _cuts(options: TaskOptions, times: Floats) -> list[float]:
    """Where the intervals of discrete times end: so that as many training events are in each, unless the user says."""
    if options.options.get("model") != "discrete" or options.options.get("cuts"):
        return []
    intervals = options.options.get("intervals", 10)
    place = f"dataset.tasks.{options.name}"
    if isinstance(intervals, bool) or not isinstance(intervals, int) or intervals < 1:
        raise UserError(f"{place}.intervals={intervals}: a whole number from 1 on is expected")
    if not len(times):
        raise UserError(f"{place}: there is no event in the training part, from whose times intervals could follow")
    ends = np.quantile(times, np.arange(1, intervals + 1) / intervals, method="higher")
    return [float(end) for end in np.unique(ends)]


def _numeric(labels: Labels, training: Ints) -> Target:
    assert labels.values is not None
    fitted = [moments(column[training]) for column in labels.values.T]
    if labels.kind == "count":  # a rate is relative to their mean
        fitted = [(0.0, mean if mean > 0 else 1.0) for mean, _ in fitted]
    flat = labels.kind in ("quantile", "count") or (labels.kind == "regression" and len(labels.columns) == 1)
    center, scale = zip(*fitted, strict=True)
    return Target(labels.kind, labels.columns, center=center, scale=scale, flat=flat)


def moments(values: Floats) -> tuple[float, float]:
    """Mean and standard deviation of the numbers that are there; (0, 1) where there is none, scale 1 where all are the same."""
    present = values[~np.isnan(values)]
    if not len(present) or present.min() == present.max():
        return (float(present[0]) if len(present) else 0.0), 1.0
    largest = np.abs(present).max()  # squares of large numbers overflow
    scaled = present / largest
    return float(scaled.mean() * largest), float(scaled.std() * largest) or 1.0
