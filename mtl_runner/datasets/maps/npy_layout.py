"""Scenes as numbered npy files, ``<path>/{train,val}/{image,label,depth,normal}/<number>.npy``, as MTAN and LibMTL read them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import pyarrow as pa
from annotated_types import Ge, Gt, Lt

from mtl_runner.batch import Data
from mtl_runner.datasets.base import known
from mtl_runner.datasets.dense import Dense
from mtl_runner.datasets.files import Expected, expect
from mtl_runner.datasets.maps.map_folders import PART, Layout
from mtl_runner.datasets.skipping import OnError, Skipping
from mtl_runner.datasets.splitting import Splitting
from mtl_runner.errors import UserError


@dataclass(frozen=True)
class Published:
    """A data set as the public gets it."""

    preset: str
    counts: Mapping[str, int]
    """Scenes of ``train`` and ``val``."""
    tasks: Mapping[str, Mapping[str, Any]]
    where: str
    licence: str


class NpyLayout(Dense):
    """``val`` is the test part; a share of ``train`` validates.

    Args:
        path: the folder with ``train`` and ``val``.
        tasks: which of its tasks, with their options ``role``, ``metric`` and those of their type.
        only: train only these tasks.
        size: [height, width] that all are brought to; None: as they are.
        validation: share of ``train``.
        split_seed: moves the validation part.
        augmentation: random changes in training; see ``Changes``.
        on_error: stop at the first scene that cannot be used, or skip it.
        max_errors: how many may be skipped.
        verify: refuse other numbers of scenes than the published ones.
    """

    published: ClassVar[Published]

    def __init__(
        self,
        *,
        path: str,
        tasks: dict[str, dict[str, Any] | None] | list[str] | None = None,
        only: list[str] | None = None,
        size: list[Annotated[int, Ge(1)]] | None = None,
        validation: Annotated[float, Gt(0), Lt(1)] = 0.1,
        split_seed: int = 0,
        augmentation: dict[str, Any] | None = None,
        on_error: OnError = "stop",
        max_errors: Annotated[int, Ge(0)] = 10,
        verify: bool = True,
        stream: str = "input",
    ) -> None:
        published = self.published
        self.verify, self.share = verify, validation
        if not 0 < validation < 1:
            raise UserError(f"dataset.validation={validation}: a share of the training scenes, above 0 and below 1")
        named: Any = list(published.tasks) if tasks is None else tasks
        given = named if isinstance(named, Mapping) else dict.fromkeys(named)
        for name, keys in given.items():
            known(name, published.tasks, "dataset.tasks: task")
            if fixed := [key for key in keys or {} if key in published.tasks[name]]:
                raise UserError(f"dataset.tasks.{name}.{fixed[0]}: dataset={published.preset} fixes it; dataset=dense reads any")
        super().__init__(
            path,
            {str(name): {**published.tasks[name], **(keys or {})} for name, keys in given.items()},
            size=size,
            only=only,
            split_seed=split_seed,
            augmentation=augmentation,
            on_error=on_error,
            max_errors=max_errors,
            stream=stream,
        )

    def load(self) -> Data:
        """Check that everything is there, then read it."""
        said = self.published
        folders = ["image", *(task.map.column for task in self.tasks.values())]
        wanted = [Expected(f"{part}/{name}", folder=True) for part in said.counts for name in folders]
        expect(said.preset, self.path, wanted, said.where, said.licence)
        return super().load()

    def _layout(self) -> Layout:
        found = super()._layout()
        return replace(found, parts={"train": "train", "val": "test"})

    def _rows(self, skipping: Skipping) -> pa.Table:
        rows = super()._rows(skipping)
        parts = rows.column(PART).to_pylist()
        for folder, part in (("train", "train"), ("val", "test")):
            count, published = parts.count(part), self.published.counts[folder]
            if count != published and self.verify:
                raise UserError(
                    f"dataset={self.published.preset}: {self.path / folder} has {count} scenes, and the published data "
                    f"{published}; dataset.verify=false takes what is there"
                )
        return rows

    def _splitting(self, rows: pa.Table) -> Splitting:
        parts = rows.column(PART).to_pylist()
        return replace(super()._splitting(rows), validation=self.share * parts.count("train") / len(parts))
