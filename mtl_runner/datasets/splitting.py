"""Which rows train, validate and test."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from mtl_runner.datasets.base import known
from mtl_runner.datasets.stratify import Ints, stratify
from mtl_runner.errors import UserError, choices, nearest
from mtl_runner.seeding import derive

By = Literal["random", "group", "time", "column"]
PARTS = ("train", "validation", "test")
SPELLINGS = {"train": "train", "training": "train", "validation": "validation", "valid": "validation", "val": "validation"} | {
    "dev": "validation",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class Splitting:
    """How rows become parts. Shares are shares of all rows (with a test file: of the rows of the other file)."""

    by: By = "random"
    column: str | None = None
    """The column of groups, of times, or of the parts' names."""
    validation: float = 0.15
    test: float = 0.15
    fold: int | None = None
    """With it, the test part is this one (from 0) of ``folds`` equal parts, and ``test`` is not used."""
    folds: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        known(self.by, get_args(By), "dataset.split.by:")
        if (self.by == "random") != (self.column is None):
            need = "takes no column" if self.by == "random" else "needs dataset.split.column"
            raise UserError(f"dataset.split.by={self.by} {need}")
        if not (self.validation > 0 and self.test > 0 and self.validation + self.test < 1):
            typed = f"validation={self.validation}, test={self.test}"
            raise UserError(f"dataset.split: {typed}; both must be above 0, and their sum below 1")
        if self.fold is None:
            return
        if self.by in ("time", "column"):
            raise UserError(f"dataset.fold does not go with dataset.split.by={self.by}; allowed: random, group")
        if not 0 <= self.fold < self.folds:
            raise UserError(f"dataset.fold={self.fold} is not one of {self.folds} folds; allowed: 0 to {self.folds - 1}")
        if self.validation >= 1 - 1 / self.folds:
            raise UserError(
                f"dataset.split.validation={self.validation} leaves nothing to train on beside one of {self.folds} folds"
            )

    @classmethod
    def of(cls, options: Mapping[str, Any], fold: int | None, folds: int, seed: int) -> "Splitting":
        """From the configuration's ``split``, ``fold``, ``folds`` and ``split_seed``."""
        allowed = ("by", "column", "validation", "test")
        for key, value in options.items():
            known(str(key), allowed, "dataset.split: option")
            if key in ("validation", "test") and (isinstance(value, bool) or not isinstance(value, int | float)):
                raise UserError(f"dataset.split.{key}={value!r} is not a number")
        return cls(**dict(options), fold=fold, folds=folds, seed=seed)


def split(
    how: Splitting, labels: Ints, values: Sequence[str | None] | NDArray[Any] | None, tested: Ints | None = None
) -> dict[str, Ints]:
    """Positions of the rows of each part, ascending.

    ``labels`` [N, T]: what to stratify by. ``values`` [N]: the split column; None or NaN: missing. ``tested``: positions of the
    rows that come from a test file; the others are then divided between training and validation.
    """
    generator = np.random.default_rng(derive(how.seed, "split"))
    rows = np.arange(len(labels))
    if tested is not None:
        rows = np.setdiff1d(rows, tested)
    if len(rows) < (len(PARTS) if tested is None else 2):
        raise UserError(f"{len(rows)} rows are too few to split into {choices(PARTS)}")
    column = None if values is None else np.asarray(values)[rows]
    parts = np.full(len(labels), 2)
    parts[rows] = _parts(how, labels[rows], column, tested is None, generator)
    return {name: np.flatnonzero(parts == part) for part, name in enumerate(PARTS)}


def _parts(how: Splitting, labels: Ints, values: NDArray[Any] | None, test: bool, generator: np.random.Generator) -> Ints:
    """The part of each row: 0, 1, and 2 if there is to be a ``test`` part."""
    if how.by == "column":
        return _named(how, labels, _present(how, values), test, generator)
    shares = [1 - how.validation - how.test, how.validation, how.test] if test else [1 - how.validation, how.validation]
    if how.by == "time":
        return _timely(_times(how, _present(how, values)), shares)
    groups = None if how.by == "random" else np.unique(_present(how, values).astype(str), return_inverse=True)[1].reshape(-1)
    if groups is not None:
        _enough_groups(how, int(groups.max()) + 1, len(shares) if how.fold is None else how.folds + 1)
    if how.fold is None:
        return stratify(labels, shares, generator, groups)
    if not test:
        raise UserError("dataset.fold does not go with dataset.test_path: the test file is the test part")
    tested = stratify(labels, [1.0] * how.folds, generator, groups) == how.fold
    parts = np.full(len(labels), 2)
    rest = groups[~tested] if groups is not None else None
    validation = how.validation / (1 - 1 / how.folds)
    parts[~tested] = stratify(labels[~tested], [1 - validation, validation], generator, rest)
    return parts


def _present(how: Splitting, values: NDArray[Any] | None) -> NDArray[Any]:
    assert values is not None
    if count := sum(value is None for value in values):
        raise UserError(f"dataset.split.column={how.column}: {count} rows have no value in it; fill them in or choose another")
    return values


def _enough_groups(how: Splitting, groups: int, parts: int) -> None:
    if groups < parts:
        raise UserError(
            f"dataset.split.column={how.column} has {groups} different values; {parts} parts need at least {parts} groups"
        )


def _timely(times: NDArray[Any], shares: Sequence[float]) -> Ints:
    """Earliest rows first; rows of the same time stay together, in the earlier part."""
    ranked = np.argsort(times, kind="stable")
    ordered = times[ranked]
    cuts = np.round(np.cumsum(shares)[:-1] * len(times)).astype(int)
    last = ordered[np.maximum(cuts - 1, 0)]
    parts = np.searchsorted(last, times, side="left")
    if len(np.unique(parts)) < len(shares):
        raise UserError("dataset.split.by=time: too few different times for these shares; a part would have no rows")
    return parts


def _times(how: Splitting, values: NDArray[Any]) -> NDArray[Any]:
    """Numbers if all are, else dates."""
    try:
        return values.astype(np.float64)
    except ValueError:
        pass
    import pandas as pd

    try:
        return pd.to_datetime(pd.Series(values), utc=True, format="ISO8601").to_numpy("datetime64[ns]")
    except ValueError as error:
        raise UserError(
            f"dataset.split.column={how.column} holds neither numbers nor dates such as 2024-05-31 or 2024-05-31T08:00 ({error})"
        ) from None


def _named(how: Splitting, labels: Ints, values: NDArray[Any], test: bool, generator: np.random.Generator) -> Ints:
    """Parts by their names; a validation part that nobody named is taken from training, by its share of all rows."""
    spelt, positions = np.unique(values.astype(str), return_inverse=True)
    parts = []
    for text in spelt.tolist():
        if text.strip().lower() not in SPELLINGS:
            allowed = f"allowed: {choices(PARTS)}"
            raise UserError(f"dataset.split.column={how.column} holds '{text}'{nearest(text, PARTS)}; {allowed}")
        parts.append(PARTS.index(SPELLINGS[text.strip().lower()]))
    result = np.array(parts)[positions.reshape(-1)]
    required = {0, 2} if test else {0}
    if not required <= set(parts) or (not test and 2 in parts):
        raise UserError(
            f"dataset.split.column={how.column} must name rows of train{' and test' if test else ', and none of test'}"
        )
    if 1 not in parts:
        training = result == 0
        share = min(how.validation * len(result) / training.sum(), 0.5)
        result[training] = stratify(labels[training], [1 - share, share], generator)
    return result
