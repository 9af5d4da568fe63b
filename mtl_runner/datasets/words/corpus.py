"""One corpus: a column of texts, or two of pairs, with labels in other columns; it becomes one input stream."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mtl_runner.batch import Data
from mtl_runner.datasets.base import TaskOptions
from mtl_runner.datasets.rows.arrays import Source, assembled
from mtl_runner.datasets.rows.columns import categories
from mtl_runner.datasets.rows.inputs import matching
from mtl_runner.datasets.rows.labels import Labels, read_labels
from mtl_runner.datasets.rows.notes import label_notes
from mtl_runner.datasets.rows.preparation import Preparation
from mtl_runner.datasets.rows.reading import Reading, as_read, file_notes, where
from mtl_runner.datasets.skipping import OnError, Skipping
from mtl_runner.datasets.splitting import Splitting, split
from mtl_runner.datasets.stratify import Ints
from mtl_runner.datasets.words.text_preparation import TextPreparation, cells
from mtl_runner.datasets.words.text_reading import Level, PieceReader, Reader, Texts, UnitReader
from mtl_runner.errors import UserError, choices


@dataclass(frozen=True)
class TextOptions:
    """How texts become numbers."""

    level: Level = "words"
    tokenizer: str | None = None
    lowercase: bool = True
    min_count: int = 1
    max_words: int | None = None
    max_letters: int | None = None
    """None: letters are no input."""
    max_length: int = 256
    on_error: OnError = "stop"
    max_errors: int = 100

    def reader(self, texts: Texts, training: Sequence[int]) -> Reader:
        """Fitted on the ``training`` rows, or that of the file."""
        if self.tokenizer is not None:
            return PieceReader.of(self.tokenizer, self.max_length)
        counted: dict[str, Any] = {"lowercase": self.lowercase, "min_count": self.min_count, "most": self.max_words}
        return UnitReader.fitted(texts, training, self.level, self.max_length, self.max_letters, **counted)


@dataclass(frozen=True)
class Corpus:
    """What is known of a corpus before it is read."""

    texts: tuple[str, ...]
    """Columns, by name."""
    options: Mapping[str, TaskOptions]
    splitting: Splitting
    reading: Reading
    how: TextOptions
    stream: str = "input"

    def prepared(self, table: pa.Table, tested: Ints | None, only: Sequence[str] | None = None) -> Data:
        """Split, fitted on the training part, as tensors.

        Args:
            table: all rows.
            tested: those of a test file.
            only: train only these tasks.
        """
        names = tuple(matching([name], table.schema.names, "dataset.text")[0] for name in self.texts)
        labels, texts = self._labels(table, names), cells(table, names)
        skipping = Skipping(self.how.on_error, self.how.max_errors)
        kept = np.array([row for row in range(table.num_rows) if _has_text(table, row, texts[row], names, skipping)], np.int64)
        parts = self._parts(table, labels, kept, tested)
        reader = self.how.reader(texts, parts["train"].tolist())
        targets = {name: task.fit(parts["train"]) for name, task in labels.items()}
        of_labels = Preparation((), (), targets, as_read(self.reading, table), self.stream)
        preparation = TextPreparation(names, reader, of_labels)
        values = {name: tensor.numpy() for name, tensor in of_labels.targets(table).items()}
        context: dict[str, NDArray[Any]] = {"row": np.arange(table.num_rows)}
        if self.splitting.by == "group" and (groups := self._values(table)) is not None:
            context["group"] = np.unique(groups.astype(str), return_inverse=True)[1].reshape(-1)
        source = Source(reader.fields(texts), values, context)
        notes = [
            *file_notes(table),
            *self._notes(reader, texts, source, parts),
            *label_notes(labels, targets, values, parts),
            *skipping.note("texts"),
        ]
        data = assembled(source, parts, of_labels, self.options, only, notes)
        changed: dict[str, Any] = {"streams": {self.stream: reader.spec}, "preparation": preparation.to_json()}
        return replace(data, **changed, skipped=tuple(skipping.lines))

    def _labels(self, table: pa.Table, texts: Sequence[str]) -> dict[str, Labels]:
        labels = {}
        for name, options in self.options.items():
            place = f"dataset.tasks.{name}" if options.columns else "dataset.tasks"
            columns = matching(options.columns or (name,), table.schema.names, place)
            if both := set(columns) & set(texts):
                raise UserError(f"dataset.tasks.{name}: column '{min(both)}' is the text, and a task is never an input")
            labels[name] = read_labels(table, columns, options, self.reading.missing)
            if labels[name].kind == "reconstruction":
                raise UserError(f"dataset.tasks.{name}.type=reconstruction: texts cannot be reconstructed")
        return labels

    def _parts(self, table: pa.Table, labels: Mapping[str, Labels], kept: Ints, tested: Ints | None) -> dict[str, Ints]:
        """Of the rows that are kept."""
        strata = [column for task in labels.values() for column in task.strata] or [np.zeros(table.num_rows, np.int64)]
        values = self._values(table)
        among = None if tested is None else np.flatnonzero(np.isin(kept, tested))
        parts = split(self.splitting, np.stack(strata, axis=1)[kept], None if values is None else values[kept], among)
        return {part: kept[rows] for part, rows in parts.items()}

    def _values(self, table: pa.Table) -> NDArray[Any] | None:
        """The split column as texts, None where missing."""
        if self.splitting.column is None:
            return None
        name = matching([self.splitting.column], table.schema.names, "dataset.split.column")[0]
        spellings, positions = categories(table.column(name), self.reading.missing)
        return np.array(spellings, dtype=object)[positions]

    def _notes(self, reader: Reader, texts: Texts, source: Source, parts: Mapping[str, Ints]) -> list[str]:
        tokens = source.inputs["tokens"][parts["test"]]
        notes = []
        if isinstance(reader, UnitReader):
            unknown = (tokens == 1).sum() / max(1, (tokens != 0).sum())
            what, known = reader.level, len(reader.words.vocabulary.words)
            notes.append(f"{known} {what}; {unknown:.1%} of those of the test part are not among them".replace("%", " %"))
        if count := reader.cut(texts):
            notes.append(f"{count} of {len(texts)} texts are longer than {reader.length}: the rest of them is not read")
        return notes


def _has_text(table: pa.Table, row: int, texts: Sequence[str | None], names: Sequence[str], skipping: Skipping) -> bool:
    if any(text is not None and not text.isspace() and text for text in texts):
        return True
    columns = choices([repr(name) for name in names])
    skipping(UserError(f"{where(table, row)}, column {columns}: an empty text (dataset.on_error=skip leaves it out)"))
    return False
