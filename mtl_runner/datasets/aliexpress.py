"""AliExpress search: clicks and conversions."""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from annotated_types import Ge

from mtl_runner.datasets.files import Expected, expect
from mtl_runner.datasets.recsys import Recsys
from mtl_runner.datasets.rows.columns import categories
from mtl_runner.datasets.rows.inputs import matching
from mtl_runner.datasets.rows.preparation import read_numbers
from mtl_runner.datasets.rows.reading import column_names, read_batches
from mtl_runner.datasets.stratify import Ints

FILES = (Expected("train.csv", others=("train.csv.gz",)), Expected("test.csv", others=("test.csv.gz",)))
LABELS = ("click", "conversion")
_AT_ONCE = 200_000


class AliExpress(Recsys):
    """What was shown for a search, in one country (Li et al., "Improving multi-scenario learning to rank in e-commerce by
    exploiting task relationships in the label space", CIKM 2020), as one CSV for training and one for testing.

    Columns: ``search_id``, ``categorical_1`` … 16, ``numerical_1`` … 63, ``click``, ``conversion``: the form in which LibMTL and
    others use it. The search stands for the user where each list is judged by itself (GAUC); it is no input. A row without a
    click has no conversion, so that ``conversion`` is that of the entire space.

    Numbers are kept in single precision, and read piece by piece. The whole of one country takes tens of gigabytes.

    Args:
        path: the country's folder.
        tasks: as of ``recsys``.
        rows: the first so many of each file; null: all.
        validation: share of the rows of train.csv that are the validation part.
        only, split_seed, stream: as of ``recsys``.
    """

    def __init__(
        self,
        path: str,
        tasks: dict[str, dict[str, Any] | None],
        rows: Annotated[int, Ge(10)] | None = None,
        validation: float = 0.1,
        only: list[str] | None = None,
        split_seed: int = 0,
        stream: str = "input",
    ) -> None:
        super().__init__(
            path, tasks, user="search_id", item=None, ignore="search_id", numeric="numerical_*", categorical="categorical_*",
            only=only, split={"validation": validation}, split_seed=split_seed, stream=stream,
        )  # fmt: skip
        self.folder, self.rows = path, rows

    def _interactions(self) -> tuple[pa.Table, Ints | None]:
        where = "https://tianchi.aliyun.com/dataset/74690 (as CSV: links in easezyc/Multitask-Recommendation-Library on GitHub)"
        paths = expect("aliexpress", self.folder, FILES, where, "the terms on that page")
        train, test = (self._typed(path) for path in paths.values())
        return pa.concat_tables([train, test]), np.arange(train.num_rows, train.num_rows + test.num_rows)

    def _typed(self, path: Path) -> pa.Table:
        names = column_names(path, self.reading)
        chosen = matching(["search_id", "categorical_*", "numerical_*", *LABELS], names, str(path))
        pieces, left = [], self.rows
        for batch in read_batches(path, chosen, _AT_ONCE, self.reading):
            kept = batch if left is None else batch.slice(0, left)
            pieces.append(self._piece(kept, chosen))
            left = None if left is None else left - kept.num_rows
            if left == 0:
                break
        return pa.concat_tables(pieces)

    def _piece(self, batch: pa.RecordBatch, names: tuple[str, ...]) -> pa.Table:
        columns: dict[str, pa.Array] = {}
        for name in names:
            if name.startswith("numerical_"):
                columns[name] = pa.array(read_numbers(batch, name, self.reading.missing).astype(np.float32), from_pandas=True)
            else:
                spellings, rows = categories(batch.column(batch.schema.get_field_index(name)), self.reading.missing)
                columns[name] = pa.array(spellings, pa.string()).take(pa.array(rows)).dictionary_encode()
        return pa.table(columns)
