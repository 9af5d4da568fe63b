"""MovieLens: what people think of films."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
from annotated_types import Ge

from mtl_runner.datasets.files import Expected, expect
from mtl_runner.datasets.recsys import Recsys
from mtl_runner.datasets.stratify import Ints
from mtl_runner.errors import UserError

GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
WHERE = "https://grouplens.org/datasets/movielens/"
LICENCE = "research use only, no redistribution without permission (README of the archive)"


@dataclass(frozen=True)
class _Layout:
    separator: str
    files: tuple[Expected, Expected, Expected]
    """Ratings, users, films."""
    columns: tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]


_RATING = ("user", "item", "rating", "time")
LAYOUTS = {
    "ml-100k": _Layout(
        "|",
        (Expected("u.data"), Expected("u.user"), Expected("u.item")),
        (
            _RATING,
            ("user", "age", "gender", "occupation", "zip"),
            ("item", "title", "released", "video", "url", *(f"genre: {name}" for name in GENRES)),
        ),
    ),
    "ml-1m": _Layout(
        "::",
        (Expected("ratings.dat", size=24_594_131), Expected("users.dat", size=134_368), Expected("movies.dat", size=171_308)),
        (_RATING, ("user", "gender", "age", "occupation", "zip"), ("item", "title", "genres")),
    ),
}
_LEFT_OUT = ("title", "released", "video", "url", "zip")
"""Texts that hardly repeat; a film's year is read from its title."""


class MovieLens(Recsys):
    """Ratings 1 … 5 of films (Harper & Konstan, "The MovieLens datasets", ACM TiiS 2015) in the files of ml-100k or ml-1m.

    A row is a rating. Inputs beside user and film: age, gender and occupation of the user, year and genres of the film.

    Args:
        path: the unpacked folder.
        layout: of its files.
        tasks: their options as of ``recsys``; the column is ``rating``.
        features: whether what is known of users and films is read.
        verify: compare the files' sizes with those of the published ones, where they are known.
        only, split, fold, folds, split_seed, stream: as of ``recsys``; the column to split by time is ``time``.
    """

    def __init__(
        self,
        path: str,
        layout: Literal["ml-100k", "ml-1m"],
        tasks: dict[str, dict[str, Any] | None],
        features: bool = True,
        verify: bool = True,
        only: list[str] | None = None,
        split: dict[str, Any] | None = None,
        fold: Annotated[int, Ge(0)] | None = None,
        folds: Annotated[int, Ge(2)] = 5,
        split_seed: int = 0,
        stream: str = "input",
    ) -> None:
        self.layout, self.features, self.verify = LAYOUTS[layout], features, verify
        many = {"genres": "|"} if features and layout == "ml-1m" else None
        categorical = ["occupation", *(["age"] if layout == "ml-1m" else [])] if features else []  # ml-1m has codes of seven ages
        super().__init__(
            path, tasks, many=many, categorical=categorical, only=only, ignore=[], split=split, fold=fold, folds=folds,
            split_seed=split_seed, stream=stream,
        )  # fmt: skip
        self.folder = path
        if self.splitting.column != "time":
            self.named["ignore"] = ("time",)

    def _interactions(self) -> tuple[pa.Table, Ints | None]:
        option = "movielens"
        self.found = list(expect(option, self.folder, self.layout.files, WHERE, LICENCE, self.verify).values())
        separator = "\t" if self.layout.separator == "|" else self.layout.separator
        return _rows(self.found[0], separator, self.layout.columns[0]), None

    def _side_tables(self) -> list[tuple[pa.Table, str, str]]:
        if not self.features:
            return []
        users, films = (
            _rows(path, self.layout.separator, names) for path, names in zip(self.found[1:], self.layout.columns[1:], strict=True)
        )
        years = [title[-5:-1] if title.endswith(")") and title[-5:-1].isdigit() else None for title in films["title"].to_pylist()]
        films = films.append_column("year", pa.array(years, pa.string()))
        sides = zip((users, films), ("user", "item"), self.found[1:], strict=True)
        return [
            (table.drop_columns([name for name in _LEFT_OUT if name in table.schema.names]), key, str(path))
            for table, key, path in sides
        ]


def _rows(path: Path, separator: str, names: Sequence[str]) -> pa.Table:
    """The columns of a file without a header, as text; it may end values with a separator of several characters.

    Raises:
        UserError: with file and line, where a line has another number of values.
    """
    rows = []
    with path.open(encoding="latin-1", newline="\n") as lines:
        for number, line in enumerate(lines, start=1):
            cells = line.rstrip("\r\n").split(separator)
            if len(cells) != len(names):
                raise UserError(
                    f"{path}, line {number}: {len(cells)} values, but there are {len(names)} columns: {', '.join(names)}"
                )
            rows.append(cells)
    if not rows:
        raise UserError(f"{path} is empty")
    return pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)))
