"""Use what was trained: predictions for new rows, metrics on labelled ones."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import torch
from torch import Tensor

from mtl_runner import build, checkpoint
from mtl_runner.batch import Batch, TargetSpec
from mtl_runner.datasets.preparation import Preparation
from mtl_runner.datasets.reading import column_names, read_batches
from mtl_runner.errors import UserError, choices
from mtl_runner.evaluate import Report, averages, measure
from mtl_runner.folder import RunFolder
from mtl_runner.model import MultiTaskModel
from mtl_runner.predictions import columns
from mtl_runner.tasks.group import pack
from mtl_runner.tracking import locate

OUTPUTS = (".parquet", ".csv")


@dataclass(frozen=True)
class Trained:
    """A trained model and all that it takes to use it on raw rows."""

    model: MultiTaskModel
    preparation: Preparation
    targets: Mapping[str, TargetSpec]

    @torch.inference_mode()
    def outputs(self, rows: pa.RecordBatch | pa.Table) -> dict[str, Tensor]:
        """Outputs [T, N, …] of each group, on the CPU, for raw rows."""
        device = next(self.model.parameters()).device
        fields = {name: value.to(device) for name, value in self.preparation.inputs(rows).items()}
        return {key: value.cpu() for key, value in self.model.outputs({self.preparation.stream: fields}).items()}

    def predictions(self, rows: pa.RecordBatch | pa.Table) -> dict[str, pa.Array]:
        """What a user reads, by column name, for raw rows."""
        return columns(self.model.by_task(self.outputs(rows)), self.targets)


def load(run: str | Path, device: str = "auto", allowed: Sequence[str] = ()) -> Trained:
    """The model of a run (a run folder or an MLflow run id) with its best weights, ready to predict.

    ``allowed`` are modules of one's own that the run's configuration may name.

    Raises:
        UserError: there is no such run, or it is not finished.
    """
    folder = RunFolder(locate(run))
    node = folder.read_config(allowed)
    streams, targets = folder.read_specs()
    if not folder.best.exists():
        raise UserError(f"{run}: has no trained model yet (checkpoints/best.pt is written at the end of a run)")
    model = build.make_model(node, streams, targets, trained=True).to(build.make_device(device))
    model.load_state_dict(checkpoint.load(folder.best))
    for group in model.task_groups.values():
        group.criterion = None  # it was fitted to the training targets, and plays no part from here on
    preparation = Preparation.from_json(folder.read_json("data.json")["preparation"])
    return Trained(model.eval(), preparation, targets)


def predict(run: str | Path, input: Path, output: Path, batch_size: int = 65536, allowed: Sequence[str] = ()) -> None:
    """Write every task's predictions for the rows of ``input``, in their order, to ``output`` (.parquet or .csv).

    Memory is bounded by ``batch_size``, not by the file. ``output`` appears when it is complete.

    Raises:
        UserError: an unknown format, a column that is not there, a cell that cannot be read.
    """
    if output.suffix not in OUTPUTS:
        raise UserError(f"--output {output}: the format is taken from the ending; allowed are {choices(OUTPUTS)}")
    trained = load(run, allowed=allowed)
    with _whole(output) as temporary, _writer(temporary, output.suffix) as write:
        for rows in _batches(input, trained.preparation, batch_size):
            write(pa.RecordBatch.from_pydict(trained.predictions(rows)))


def _batches(path: Path, preparation: Preparation, size: int) -> Iterator[pa.RecordBatch | pa.Table]:
    """The rows of a file; one batch of none where it has a header and nothing else, so that the answer has one, too."""
    some = False
    for rows in read_batches(path, preparation.columns, size, preparation.reading):
        some = True
        yield rows
    if not some:
        yield pa.table({name: pa.nulls(0, pa.string()) for name in column_names(path, preparation.reading)})


def evaluate(run: str | Path, input: Path, batch_size: int = 65536, allowed: Sequence[str] = ()) -> Report:
    """Print the metrics of a run on labelled rows, task × metric, and return them.

    Raises:
        UserError: as ``predict``; a task's column that is not there.
    """
    from mtl_runner.console import print_results

    trained = load(run, allowed=allowed)
    preparation, model = trained.preparation, trained.model
    pieces: dict[str, list[Tensor]] = {key: [] for key in model.task_groups}
    labels: dict[str, list[Tensor]] = {name: [] for name in trained.targets}
    wanted = tuple(dict.fromkeys([*preparation.columns, *preparation.target_columns(trained.targets)]))
    for rows in read_batches(input, wanted, batch_size, preparation.reading):
        for key, value in trained.outputs(rows).items():
            pieces[key].append(value)
        for name, target in preparation.targets(rows, list(trained.targets)).items():
            labels[name].append(target)
    if not all(labels.values()):
        raise UserError(f"{input} has no rows")
    streams = {name: spec.stream for name, spec in trained.targets.items()}
    split = pack(Batch({}, {name: torch.cat(parts) for name, parts in labels.items()}, streams), model.task_groups)
    report = measure(model.cpu(), {key: torch.cat(parts, 1) for key, parts in pieces.items()}, split)
    print_results(report.metrics, averages(report.metrics, model.tasks), model.tasks, str(input))
    return report


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A temporary name for ``path`` that becomes it when all went well, and is removed when not."""
    if not path.parent.is_dir():
        raise UserError(f"--output {path}: there is no folder {path.parent}")
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _writer(path: Path, suffix: str) -> Iterator[Callable[[pa.RecordBatch], None]]:
    """Writes batches of one schema, which the first one gives."""
    writer: pa.parquet.ParquetWriter | pa.csv.CSVWriter | None = None

    def write(batch: pa.RecordBatch) -> None:
        nonlocal writer
        if suffix == ".csv":
            batch = _plain_text(batch)
        if writer is None:
            make = pa.csv.CSVWriter if suffix == ".csv" else pa.parquet.ParquetWriter
            writer = make(path, batch.schema)
        writer.write_batch(batch)

    try:
        yield write
    finally:
        if writer is not None:
            writer.close()


def _plain_text(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Dictionary columns as text: a CSV file has no other way to hold them."""
    arrays = [column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column for column in batch.columns]
    return pa.RecordBatch.from_arrays(arrays, names=batch.schema.names)
