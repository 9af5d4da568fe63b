"""Use what was trained: predictions for new rows, metrics on labelled ones."""

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import torch
from torch import Tensor

from mtl_runner import build, checkpoint
from mtl_runner.batch import Batch, Fields, StreamSpec, TargetSpec, example
from mtl_runner.config.values import complaints, show
from mtl_runner.datasets.prepared import Prepared, read_preparation
from mtl_runner.datasets.rows.reading import Rows, picked
from mtl_runner.datasets.skipping import Skipping
from mtl_runner.errors import UserError, choices, nearest
from mtl_runner.evaluate import Measured, Report, averages
from mtl_runner.folder import RunFolder
from mtl_runner.model import MultiTaskModel
from mtl_runner.predictions import columns
from mtl_runner.tasks.group import pack
from mtl_runner.tracking import locate

OUTPUTS = (".parquet", ".csv")
Result = TypeVar("Result")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """A trained model and all that it takes to use it on raw rows of one of its streams."""

    model: MultiTaskModel
    preparation: Prepared
    targets: Mapping[str, TargetSpec]
    """Of the tasks that read the stream."""
    spec: StreamSpec
    """What the stream looks like."""
    others: Mapping[str, Fields] = field(default_factory=dict)
    """An empty example of each other stream, for sharing modes that ask for all."""

    @property
    def groups(self) -> list[str]:
        """Those that read the stream."""
        return [key for key, group in self.model.task_groups.items() if group.stream == self.preparation.stream]

    @torch.inference_mode()
    def outputs(self, rows: Rows) -> dict[str, Tensor]:
        """Outputs [T, N, …] of each group, on the CPU, for raw rows."""
        device = next(self.model.parameters()).device
        fields = {name: value.to(device) for name, value in self.preparation.inputs(rows).items()}
        others = {stream: {name: value.to(device) for name, value in empty.items()} for stream, empty in self.others.items()}
        inputs = self.model.trimmed(Batch({**others, self.preparation.stream: fields}, {}, {})).inputs
        outputs = self.model.outputs(inputs, self.groups)
        return {key: value.cpu() for key, value in outputs.items()}

    def predictions(self, rows: Rows) -> dict[str, pa.Array]:
        """What a user reads, by column name, for raw rows."""
        return columns(self.model.by_task(self.outputs(rows)), self.targets, self.preparation.context(rows))

    def labels(self, rows: Rows) -> Batch:
        """The labels of labelled rows, packed for metrics."""
        stream = self.preparation.stream
        targets = self.preparation.targets(rows, list(self.targets))
        batch = Batch({}, targets, dict.fromkeys(targets, stream), {}, {stream: self.preparation.context(rows)})
        return pack(batch, {key: self.model.task_groups[key] for key in self.groups})


def load(run: str | Path, device: str = "auto", allowed: Sequence[str] = (), stream: str | None = None) -> Trained:
    """The model of a run (a run folder or an MLflow run id) with its best weights, ready to predict.

    ``allowed`` are modules of one's own that the run's configuration may name. Of a run with several input streams ``stream``
    says of which one rows will come.

    Raises:
        UserError: there is no such run, it is not finished, or the stream is not one of its.
    """
    folder = RunFolder(locate(run))
    node = folder.read_config(allowed)
    streams, targets = folder.read_specs()
    if not folder.best.exists():
        raise UserError(f"{run}: has no trained model yet (checkpoints/best.pt is written at the end of a run)")
    prepared = _read_preparation(folder, streams)
    preparation = _of_stream(run, prepared, stream)
    model = build.make_model(node, streams, targets, trained=True).to(build.make_device(device))
    try:
        model.load_state_dict(checkpoint.load(folder.best))
    except (RuntimeError, TypeError) as error:
        raise UserError(f"{folder.best}: not the weights of this run's network ({str(error).splitlines()[0]})") from None
    for group in model.task_groups.values():
        group.criterion = None  # it was fitted to the training targets, and plays no part from here on
    own = {name: spec for name, spec in targets.items() if spec.stream == preparation.stream}
    others = {name: example(spec) for name, spec in streams.items() if name != preparation.stream}
    return Trained(model.eval(), preparation, own, streams[preparation.stream], others)


def _read_preparation(folder: RunFolder, streams: Mapping[str, StreamSpec]) -> dict[str, Prepared]:
    """By stream, as ``read_preparation`` gives it; of a folder that may be a stranger's, so each value has to be what it should.

    Raises:
        UserError: with file and key, a value of another type, or inputs that the run's network does not read.
    """
    file = folder.path / "data.json"
    prepared = read_preparation(folder.read_json("data.json").get("preparation") or {})
    if odd := [name for name in prepared if name not in streams]:
        raise UserError(f"{file}: its preparation is of a stream '{odd[0]}'; there are {choices(streams)}")
    for name, each in prepared.items():
        if wrong := complaints("preparation", json.loads(json.dumps(asdict(cast(Any, each)))), type(each)):
            raise UserError(f"{file}: {wrong[0]}")
        for key in ("fields", "cardinalities", "vocabulary", "characters"):
            made, read = getattr(each.stream_spec, key), getattr(streams[name], key)
            if not _readable(made, read):
                raise UserError(f"{file}: streams.{name}.{key}={show(read)}, and its preparation makes {show(made)}")
    return prepared


def _readable(made: object, read: object) -> bool:
    """Whether a network for ``read`` takes what is ``made``: the same fields, and no larger numbers of categories."""
    if isinstance(made, tuple) and isinstance(read, tuple):
        return len(made) == len(read) and all(one <= most for one, most in zip(made, read, strict=True))
    return made <= read if isinstance(made, int) and isinstance(read, int) else made == read


def _of_stream(run: str | Path, prepared: Mapping[str, Prepared], stream: str | None) -> Prepared:
    if stream is None and len(prepared) == 1:
        return next(iter(prepared.values()))
    if stream is None or stream not in prepared:
        said = f"--stream {stream}{nearest(stream, prepared)}" if stream else "has several input streams, name one with --stream"
        raise UserError(f"{run}: {said}; there are {choices(prepared)}")
    return prepared[stream]


def predict(
    run: str | Path,
    input: Path,
    output: Path,
    batch_size: int = 65536,
    allowed: Sequence[str] = (),
    stream: str | None = None,
) -> None:
    """Write every task's predictions for the rows of ``input``, in their order, to ``output`` (.parquet or .csv).

    Rows that cannot be used, where the run passes over such, have empty ones. Memory is bounded by ``batch_size``, not by the
    file. ``output`` appears when it is complete.

    Raises:
        UserError: an unknown format, a column that is not there, a cell that cannot be read.
    """
    if output.suffix not in OUTPUTS:
        raise UserError(f"--output {output}: the format is taken from the ending; allowed are {choices(OUTPUTS)}")
    trained = load(run, allowed=allowed, stream=stream)
    preparation, passed = trained.preparation, passing_over(trained.preparation)
    with _whole(output) as temporary, _writer(temporary, output.suffix) as write:
        for rows in preparation.batches(input, preparation.columns, batch_size):
            found, places = of_usable(trained.predictions, preparation, rows, passed)
            if len(places) < rows.num_rows:
                back = {place: row for row, place in enumerate(places)}
                index = pa.array([back.get(row) for row in range(rows.num_rows)], pa.int64())
                found = {name: column.take(index) for name, column in found.items()}
            write(pa.RecordBatch.from_pydict(found))
    say_passed(passed, "their predictions are empty")


def evaluate(
    run: str | Path, input: Path, batch_size: int = 65536, allowed: Sequence[str] = (), stream: str | None = None
) -> Report:
    """Print the metrics of a run on labelled rows, task × metric, and return them.

    Raises:
        UserError: as ``predict``; a task's column that is not there.
    """
    from mtl_runner.console import print_results

    trained = load(run, allowed=allowed, stream=stream)
    preparation, seen = trained.preparation, Measured(trained.model)
    wanted = tuple(dict.fromkeys([*preparation.columns, *preparation.target_columns(trained.targets)]))
    rows_seen, passed = 0, passing_over(preparation)
    for rows in preparation.batches(input, wanted, batch_size):
        (outputs, labels), places = of_usable(
            lambda rows: (trained.outputs(rows), trained.labels(rows)), preparation, rows, passed
        )
        seen.add(outputs, labels)
        rows_seen += len(places)
    say_passed(passed, "no metric counts them")
    if not rows_seen:
        raise UserError(f"{input} has no rows{' that can be used' if passed.lines else ''}")
    trained.model.cpu()
    report = seen.report()
    tasks = [task for task in trained.model.tasks if task.name in trained.targets]
    print_results(report.metrics, averages(report.metrics, tasks), tasks, str(input))
    return report


def passing_over(prepared: Prepared) -> Skipping:
    """What is done about rows that cannot be used: as in training."""
    return Skipping("stop" if prepared.max_errors is None else "skip", prepared.max_errors or 0)


def of_usable(use: Callable[[Rows], Result], prepared: Prepared, rows: Rows, passed: Skipping) -> tuple[Result, Sequence[int]]:
    """``use`` of the rows that can be used, and their places; which these are is only asked for when one cannot."""
    try:
        return use(rows), range(rows.num_rows)
    except UserError:
        if not (bad := prepared.unusable(rows)):
            raise
    for error in bad.values():
        passed(error)
    places = [row for row in range(rows.num_rows) if row not in bad]
    return use(picked(rows, places)), places


def say_passed(passed: Skipping, so: str) -> None:
    if passed.lines:
        log.warning("%d rows cannot be used and are passed over, %s; the first: %s", len(passed.lines), so, passed.lines[0])


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
    """Dictionary columns as text, lists as JSON: a CSV file has no other way to hold them."""
    arrays = [_as_text(column) for column in batch.columns]
    return pa.RecordBatch.from_arrays(arrays, names=batch.schema.names)


def _as_text(column: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(column.type):
        return column.cast(pa.string())
    if pa.types.is_nested(column.type):
        cells = [None if value is None else json.dumps(value, ensure_ascii=False) for value in column.to_pylist()]
        return pa.array(cells, pa.string())
    return column
