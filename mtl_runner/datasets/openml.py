"""Tables of openml.org, through scikit-learn's fetcher and its cache."""

import warnings
from typing import Annotated, Any

import pyarrow as pa
from annotated_types import Ge

from mtl_runner.batch import Data
from mtl_runner.datasets.base import Dataset, texts
from mtl_runner.datasets.stratify import Ints
from mtl_runner.datasets.table import Table
from mtl_runner.errors import UserError


class OpenML(Dataset):
    """A data set of openml.org; what is downloaded once is read from the cache from then on, without a connection.

    The columns that openml calls nominal are categories, also where they look like numbers. Everything else is as in a table of
    one's own.

    Args:
        name: of the data set; ``version``: which of that name, null for the only active one.
        id: its number at openml.org, in place of a name.
        cache: folder of the cache; null: scikit-learn's own (``~/scikit_learn_data``).
        tasks: by name, their options as in ``dataset=table``; null: the data set's own target.
        only, inputs, ignore, numeric, categorical, weights, split, fold, folds, split_seed: as in ``dataset=table``.
    """

    provides = frozenset({"numeric", "categorical"})

    def __init__(
        self,
        name: str | None = None,
        id: Annotated[int, Ge(1)] | None = None,
        version: Annotated[int, Ge(1)] | None = None,
        cache: str | None = None,
        tasks: dict[str, dict[str, Any] | None] | list[str] | None = None,
        only: list[str] | None = None,
        inputs: str | list[str] | None = None,
        ignore: str | list[str] | None = None,
        numeric: str | list[str] | None = None,
        categorical: str | list[str] | None = None,
        weights: str | None = None,
        split: dict[str, Any] | None = None,
        fold: Annotated[int, Ge(0)] | None = None,
        folds: Annotated[int, Ge(2)] = 5,
        split_seed: int = 0,
        stream: str = "input",
    ) -> None:
        if (name is None) == (id is None):
            raise UserError("dataset=openml needs dataset.name=… or dataset.id=…, and not both")
        if version is not None and name is None:
            raise UserError(f"dataset.version={version} goes with dataset.name; an id has one version")
        self.name, self.id, self.version, self.cache, self.tasks = name, id, version, cache, tasks
        self.columns = {"inputs": inputs, "ignore": ignore, "weights": weights, "numeric": numeric}
        self.categorical = texts(categorical)
        self.options = {"only": only, "split": split, "fold": fold, "folds": folds, "split_seed": split_seed, "stream": stream}
        self._table(pa.table({}), tasks or ["target"])  # checks the options

    def load(self) -> Data:
        """Fetch the data set, or read it from the cache, and prepare it."""
        frame, targets = self._fetched()
        nominal = [str(name) for name in frame.columns if str(frame[name].dtype) == "category"]
        kept = [name for name in nominal if name not in texts(self.columns["numeric"])]
        table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
        return self._table(table, self.tasks or targets, [*self.categorical, *kept]).load()

    def _table(self, table: pa.Table, tasks: Any, categorical: list[str] | None = None) -> "_Given":
        return _Given(table, path="", tasks=tasks, categorical=categorical, **self.columns, **self.options)

    def _fetched(self) -> tuple[Any, list[str]]:
        """All columns as a data frame, and the names of the data set's own targets."""
        from sklearn.datasets import fetch_openml

        asked: dict[str, Any] = {"data_id": self.id} if self.name is None else {"name": self.name}
        if self.name is not None:
            asked["version"] = "active" if self.version is None else self.version
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "A network error")  # it is an error below
                # the faster parser fails at nominal columns of digits, and then throws away what the cache has
                bunch = fetch_openml(**asked, data_home=self.cache, as_frame=True, parser="liac-arff", n_retries=1)
        except (OSError, ValueError) as error:
            what = f"id={self.id}" if self.name is None else f"name={self.name}"
            where = self.cache or "scikit-learn's cache"
            raise UserError(
                f"dataset.{what}: is not in {where}, and openml.org does not give it ({str(error).splitlines()[0]}); "
                "fetch it once where there is a connection, and copy the cache's folder"
            ) from None
        return bunch.frame, [str(name) for name in bunch.target_names]


class _Given(Table):
    """A table that has been read already."""

    def __init__(self, table: pa.Table, **options: Any) -> None:
        super().__init__(**options)
        self._given = table

    def _read(self) -> tuple[pa.Table, Ints | None]:
        return self._given, None
