"""Texts in files of rows: one file for all tasks, or one corpus for each."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from annotated_types import Ge

from mtl_runner.batch import Data
from mtl_runner.datasets.base import Dataset, known, select, task_options, texts
from mtl_runner.datasets.rows.columns import MISSING_TEXTS
from mtl_runner.datasets.rows.labels import TYPES
from mtl_runner.datasets.rows.reading import Reading, concatenated, read
from mtl_runner.datasets.side_by_side import side_by_side
from mtl_runner.datasets.splitting import Splitting
from mtl_runner.datasets.stratify import Ints
from mtl_runner.datasets.table import with_times
from mtl_runner.datasets.words.corpus import Corpus, TextOptions
from mtl_runner.errors import UserError, choices

TASK_KEYS = ("type", "columns", "role", "metric", "positive", "classes")
CORPUS_KEYS = ("path", "test_path", "text", "tasks", "split", "separator", "encoding", "missing", "names", "decimal")

Tasks = dict[str, dict[str, Any] | None] | list[str]


class Text(Dataset):
    """Rows with a text, or two of a pair, and labels in other columns of CSV, Parquet or JSON Lines files.

    Each of ``corpora`` is an input stream with rows, vocabulary and vectors of its own; its tasks read it alone. Vocabularies are
    those of the training parts. An empty text is an error, or its row is left out (``on_error: skip``); when a trained model is
    used, it is read as one unknown word.

    Args:
        path: a file, or several to put one after the other.
        tasks: by name, their options as in ``dataset=table``: ``type``, ``columns``, ``role``, ``metric`` …; or a list of names.
        text: the column of texts, or the two columns of pairs, which stand one after the other with a mark between them.
        corpora: in place of ``path``, ``text`` and ``tasks``: by name, the same keys for each corpus, ``test_path``, ``split``,
            ``separator``, ``encoding``, ``missing``, ``names`` and ``decimal`` among them where they differ.
        test_path: file(s) whose rows are the test part; the split then divides the others.
        only: train only these tasks.
        level: words (letters, digits and _ in a row, and single punctuation marks) or characters.
        tokenizer: a ``tokenizer.json``, or a folder with one, in place of a vocabulary: the pieces of the library ``tokenizers``.
        lowercase: whether words or characters are compared in lower case.
        min_count: words that come up less often in training are unknown.
        max_words: size of the vocabulary; null: no limit.
        characters: whether the letters of words are inputs beside the words.
        max_letters: of a longer word the first and last letters are read, half of this number each.
        max_length: words, characters or pieces of a text that are read; of a pair, the longer text is cut first.
        split, fold, folds, split_seed: as in ``dataset=table``.
        separator, encoding, missing, names, decimal: how the files are written; see ``Reading``.
        on_error: what to do about an empty text: stop, or skip its row.
        max_errors: how many rows may be skipped.
    """

    provides = frozenset({"tokens", "characters"})

    def __init__(
        self,
        path: str | list[str] | None = None,
        tasks: dict[str, dict[str, Any] | None] | list[str] | None = None,
        text: str | list[str] = "text",
        *,
        corpora: dict[str, dict[str, Any]] | None = None,
        test_path: str | list[str] | None = None,
        only: list[str] | None = None,
        level: Literal["words", "characters"] = "words",
        tokenizer: str | None = None,
        lowercase: bool = True,
        min_count: Annotated[int, Ge(1)] = 1,
        max_words: Annotated[int, Ge(1)] | None = None,
        characters: bool = False,
        max_letters: Annotated[int, Ge(2)] = 20,
        max_length: Annotated[int, Ge(3)] = 256,
        split: dict[str, Any] | None = None,
        fold: Annotated[int, Ge(0)] | None = None,
        folds: Annotated[int, Ge(2)] = 5,
        split_seed: int = 0,
        separator: str | None = None,
        encoding: str = "utf-8",
        missing: list[str] | None = None,
        names: list[str] | None = None,
        decimal: Literal[".", ","] | None = None,
        on_error: Literal["stop", "skip"] = "stop",
        max_errors: Annotated[int, Ge(0)] = 100,
        stream: str = "input",
    ) -> None:
        if (path is None or tasks is None) == (corpora is None) or (corpora and (path or tasks)):
            raise UserError("dataset=text: either dataset.path and dataset.tasks, or dataset.corpora, one corpus for each stream")
        if characters and (tokenizer is not None or level == "characters"):
            raise UserError("dataset.characters=true: letters stand beside words, that is with dataset.level=words alone")
        letters = max_letters if characters else None
        how = TextOptions(level, tokenizer, lowercase, min_count, max_words, letters, max_length, on_error, max_errors)
        common: dict[str, Any] = {
            "split": split,
            "separator": separator,
            "encoding": encoding,
            "missing": missing,
            "names": names,
            "decimal": decimal,
        }
        own = {"path": path, "test_path": test_path, "text": text, "tasks": tasks}
        self.corpora = {}
        for name, options in ({stream: own} if corpora is None else _checked(corpora)).items():
            whole = {**common, "text": text, "test_path": None, **options}
            corpus = _corpus(name, whole, Splitting.of(whole["split"] or {}, fold, folds, split_seed), how)
            self.corpora[name] = corpus, texts(whole["path"]), texts(whole["test_path"])
        self.only = only
        self.several = corpora is not None

    def load(self) -> Data:
        """Each corpus read, split and prepared by itself."""
        found = {}
        for name, (corpus, path, test_path) in self.corpora.items():
            place = f"dataset.corpora.{name}: " if self.several else ""
            try:
                found[name] = corpus.prepared(*_read(path, test_path, corpus.reading))
            except UserError as error:
                raise type(error)(f"{place}{error}") from None
        return joined(found, self.only)


def joined(corpora: Mapping[str, Data], only: Sequence[str] | None) -> Data:
    """One data set of the corpora, each with its stream."""
    if len(corpora) == 1:
        return select(next(iter(corpora.values())), only)
    tasks = [name for data in corpora.values() for name in data.targets]
    if twice := sorted({name for name in tasks if tasks.count(name) > 1}):
        raise UserError(f"dataset.corpora: several of them have a task {choices(twice)}; tasks need different names")
    skipped = tuple(line for data in corpora.values() for line in data.skipped)
    return replace(side_by_side(corpora, tasks, only), skipped=skipped)


def _checked(corpora: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    for name, options in corpora.items():
        place = f"dataset.corpora.{name}"
        if not isinstance(options, Mapping):
            raise UserError(f"{place}: {options!r} is not a mapping of options; allowed: {choices(CORPUS_KEYS)}")
        for key in options:
            known(str(key), CORPUS_KEYS, f"{place}: option")
        if absent := [key for key in ("path", "tasks") if not options.get(key)]:
            raise UserError(f"{place} has no {choices(absent)}")
    return {str(name): dict(options) for name, options in corpora.items()}


def _corpus(stream: str, options: Mapping[str, Any], splitting: Splitting, how: TextOptions) -> Corpus:
    columns = texts(options["text"])
    if len(columns) not in (1, 2):
        raise UserError(f"dataset.text={list(columns)}: one column of texts, or the two of pairs")
    tokens = MISSING_TEXTS if options["missing"] is None else texts(options["missing"])
    written: dict[str, Any] = {"texts": columns, "decimal": options["decimal"]}
    reading = Reading(options["separator"], options["encoding"], tokens, texts(options["names"]), None, **written)
    return Corpus(columns, task_options(with_times(options["tasks"]), TASK_KEYS, TYPES), splitting, reading, how, stream)


def _read(path: Sequence[str], test_path: Sequence[str], reading: Reading) -> tuple[pa.Table, Ints | None]:
    """All rows, and which of them are those of the test files."""
    table = read(path, reading)
    if not test_path:
        return table, None
    both = concatenated([table, read(test_path, reading)])
    return both, np.arange(table.num_rows, both.num_rows)
