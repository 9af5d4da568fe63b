"""From sentences with tags to tensors: the preparation of ``conll``."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import torch
from torch import Tensor

from mtl_runner.batch import MISSING, StreamSpec, TargetSpec
from mtl_runner.datasets.prepared import Prepared
from mtl_runner.datasets.rows.finding import is_parquet
from mtl_runner.datasets.rows.preparation import require
from mtl_runner.datasets.rows.reading import Rows, read_batches
from mtl_runner.datasets.skipping import Skipping
from mtl_runner.datasets.words.conll_files import Format, read_sentences
from mtl_runner.datasets.words.vocabulary import Letters, Vocabulary, Words, padded
from mtl_runner.errors import UserError

AT_ONCE = 256
"""Sentences that are read together when a model is used: what it computes for each of their words is in memory at once."""


@dataclass(frozen=True)
class Tags:
    """How a task's labels are read."""

    column: str
    classes: tuple[str, ...]
    missing: tuple[str, ...] = ()
    """What stands for a tag that is not there."""

    def spec(self, stream: str) -> TargetSpec:
        """The description that models and metrics use."""
        return TargetSpec("tagging", stream, classes=self.classes, columns=(self.column,))

    @cached_property
    def index(self) -> dict[str, int]:
        """Label of each tag."""
        return {tag: label for label, tag in enumerate(self.classes)}

    def labels(self, sentences: Sequence[Sequence[str | None]], length: int) -> Tensor:
        """[N, length]: -100 behind a sentence, where the tag is missing, and where training has none such."""
        read = [[MISSING if tag is None else self.index.get(tag, MISSING) for tag in sentence] for sentence in sentences]
        return torch.from_numpy(padded(read, length, MISSING))


@dataclass(frozen=True)
class Sentences(Prepared):
    """Words and letters as numbers, tags as labels. Rows are sentences; their cells are lists of texts."""

    kind: ClassVar[str] = "conll"
    word: str
    """The column of the words."""
    words: Words
    tasks: Mapping[str, Tags] = field(default_factory=dict)
    length: int = 1
    """Of the longest sentence that training saw."""
    max_length: int | None = None
    """Words of a sentence that are read; None: all."""
    form: Format = field(default_factory=Format)
    stream: str = "input"

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.word,)

    def target_columns(self, tasks: Iterable[str] | None = None) -> tuple[str, ...]:
        names = self.tasks if tasks is None else tasks
        return tuple(dict.fromkeys(self.tasks[name].column for name in names))

    @property
    def task_names(self) -> tuple[str, ...]:
        return tuple(self.tasks)

    @property
    def stream_spec(self) -> StreamSpec:
        """Shapes and sizes of the input stream."""
        letters = self.words.letters
        fields: dict[str, tuple[int, ...]] = {"tokens": (self.length,)}
        if letters is not None:
            fields["characters"] = (self.length, letters.most)
        known = 0 if letters is None else letters.known.size
        return StreamSpec(fields, vocabulary=self.words.vocabulary.size, characters=known)

    def batches(self, path: Path, columns: Collection[str], size: int) -> Iterator[Rows]:
        size = min(size, AT_ONCE)
        if is_parquet(path):
            yield from read_batches(path, tuple(columns), size)
            return
        yield from read_sentences(path, self.form, Skipping("stop", 0), size)

    def inputs(self, rows: Rows) -> dict[str, Tensor]:
        sentences = self._sentences(rows, self.word)
        fields = self.words.fields([[word or "" for word in sentence] for sentence in sentences], self._longest(sentences))
        return {name: torch.from_numpy(value) for name, value in fields.items()}

    def context(self, rows: Rows) -> dict[str, Tensor]:
        """``words``: of each sentence; ``length``: how many of them are read."""
        words = torch.tensor([len(sentence) for sentence in self._sentences(rows, self.word)], dtype=torch.long)
        return {"words": words, "length": words if self.max_length is None else words.clamp(max=self.max_length)}

    def targets(self, rows: Rows, tasks: Collection[str] | None = None) -> dict[str, Tensor]:
        names = self.task_names if tasks is None else tuple(tasks)
        length = self._longest(self._sentences(rows, self.word))
        read = {}
        for name in names:
            tags = self.tasks[name]
            read[name] = tags.labels(self._sentences(rows, tags.column), length)
        return read

    def _longest(self, sentences: Sequence[Sequence[object]]) -> int:
        longest = max(map(len, sentences), default=1)
        return max(1, longest if self.max_length is None else min(longest, self.max_length))

    @staticmethod
    def _sentences(rows: Rows, name: str) -> list[list[Any]]:
        require(rows, [name])
        column = rows.column(rows.schema.get_field_index(name))
        if not pa.types.is_list(column.type) and not pa.types.is_large_list(column.type) and len(column):
            raise UserError(f"column '{name}' holds {column.type}; of a sentence it is a list of texts")
        return [cell or [] for cell in column.to_pylist()]

    def blank(self, rows: int) -> pa.Table | None:
        return None

    def to_json(self) -> dict[str, Any]:
        letters = self.words.letters
        return {
            "kind": self.kind,
            "word": self.word,
            "vocabulary": list(self.words.vocabulary.words),
            "lowercase": self.words.vocabulary.lowercase,
            "letters": None if letters is None else {"known": "".join(letters.known.words), "most": letters.most},
            "tasks": {name: asdict(tags) for name, tags in self.tasks.items()},
            "length": self.length,
            "max_length": self.max_length,
            "form": asdict(self.form),
            "stream": self.stream,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Sentences":
        letters = stored["letters"]
        words = Words(
            Vocabulary(tuple(stored["vocabulary"]), stored["lowercase"]),
            None if letters is None else Letters(Vocabulary(tuple(letters["known"])), letters["most"]),
        )
        tasks = {
            name: Tags(tags["column"], tuple(tags["classes"]), tuple(tags["missing"])) for name, tags in stored["tasks"].items()
        }
        form = Format(**{**stored["form"], "names": tuple(stored["form"]["names"]), "known": tuple(stored["form"]["known"])})
        return cls(stored["word"], words, tasks, stored["length"], stored["max_length"], form, stored["stream"])


def commonest(words: Sequence[Sequence[str]], labels: Sequence[Sequence[int]]) -> tuple[dict[str, int], int]:
    """The label that each word has most often, and the most frequent of all: the baseline of a tagger."""
    counts: dict[str, Counter[int]] = {}
    for sentence, row in zip(words, labels, strict=True):
        for word, label in zip(sentence, row, strict=False):
            if label != MISSING:
                counts.setdefault(word, Counter())[label] += 1
    total = sum(counts.values(), Counter[int]())
    return {word: most.most_common(1)[0][0] for word, most in counts.items()}, (total.most_common(1) or [(MISSING, 0)])[0][0]
