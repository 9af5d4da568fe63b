"""Census-Income (KDD): the two tasks of the papers on mixtures of experts."""

from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from annotated_types import Gt, Lt

from mtl_runner.datasets.files import Expected, expect
from mtl_runner.datasets.splitting import Splitting
from mtl_runner.datasets.stratify import Ints
from mtl_runner.datasets.table import Table
from mtl_runner.seeding import derive

FILES = tuple(Expected(f"census-income.{part}.gz", others=(f"census-income.{part}",)) for part in ("data", "test"))
COLUMNS = (
    "age", "class of worker", "industry code", "occupation code", "education", "wage per hour", "enrolled in edu inst last wk",
    "marital status", "major industry code", "major occupation code", "race", "hispanic origin", "sex",
    "member of a labor union", "reason for unemployment", "full or part time employment stat", "capital gains",
    "capital losses", "dividends from stocks", "tax filer status", "region of previous residence",
    "state of previous residence", "detailed household and family stat", "detailed household summary in household",
    "instance weight", "migration code-change in msa", "migration code-change in reg", "migration code-move within reg",
    "live in this house 1 year ago", "migration prev res in sunbelt", "num persons worked for employer",
    "family members under 18", "country of birth father", "country of birth mother", "country of birth self", "citizenship",
    "own business or self employed", "fill inc questionnaire for veterans admin", "veterans benefits", "weeks worked in year",
    "year", "income",
)  # fmt: skip
CODES = ("industry code", "occupation code", "own business or self employed", "veterans benefits", "year")
"""Numbers that are names."""


class CensusIncome(Table):
    """299,285 people of the surveys of 1994 and 1995; tasks: income above 50,000 dollars, and never married.

    As in Ma et al., "Modeling task relationships in multi-task learning with multi-gate mixture-of-experts", KDD 2018, and
    Tang et al., "Progressive layered extraction", RecSys 2020. The survey's weights are neither inputs nor used.

    Args:
        path: the folder with the two files.
        tasks: as of ``table``.
        protocol: paper, whose validation and test parts are the halves of census-income.test; or training, with a share
            ``validation`` of census-income.data as the validation part and all of census-income.test as the test part.
        validation: this share.
        only, split_seed, stream: as of ``table``.
    """

    def __init__(
        self,
        path: str,
        tasks: dict[str, dict[str, Any] | None],
        protocol: Literal["paper", "training"] = "paper",
        validation: Annotated[float, Gt(0), Lt(1)] = 0.15,
        only: list[str] | None = None,
        split_seed: int = 0,
        stream: str = "input",
    ) -> None:
        super().__init__(
            path, tasks, only=only, ignore="instance weight", categorical=list(CODES), split={"validation": validation},
            split_seed=split_seed, names=list(COLUMNS), separator=",", missing=["", "?"], stream=stream,
        )  # fmt: skip
        self.folder, self.halves = path, protocol == "paper"
        if self.halves:
            self.splitting = Splitting("column", "part", seed=split_seed)

    def _read(self) -> tuple[pa.Table, Ints | None]:
        where = "https://archive.ics.uci.edu/dataset/117/census+income+kdd"
        paths = expect("census_income", self.folder, FILES, where, "CC BY 4.0")
        self.path, self.test_path = (str(path) for path in paths.values())
        table, tested = super()._read()
        if not self.halves or tested is None:
            return table, tested
        parts = np.full(table.num_rows, "train", dtype="<U10")
        mixed = np.random.default_rng(derive(self.splitting.seed, "halves")).permutation(tested)
        parts[mixed[: len(mixed) // 2]], parts[mixed[len(mixed) // 2 :]] = "validation", "test"
        return table.append_column("part", pa.array(parts)), None
