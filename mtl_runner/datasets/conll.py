"""Words with tags, in columns: several columns of tags are several tasks on the same words."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import torch
from annotated_types import Ge

from mtl_runner.batch import MISSING, Data, Split
from mtl_runner.datasets.base import Dataset, described, fingerprint, known, select, task_options, texts
from mtl_runner.datasets.rows.columns import order
from mtl_runner.datasets.rows.encodings import mark_notes
from mtl_runner.datasets.rows.finding import existing
from mtl_runner.datasets.skipping import OnError, Skipping
from mtl_runner.datasets.splitting import Splitting, split
from mtl_runner.datasets.stratify import Ints
from mtl_runner.datasets.words.conll_files import LINE, Format, read_sentences
from mtl_runner.datasets.words.sentences import Sentences, Tags, commonest
from mtl_runner.datasets.words.vocabulary import Letters, Vocabulary, Words
from mtl_runner.errors import UserError, choices

TASK_KEYS = ("columns", "role", "metric", "classes")

Sentence = Sequence[str]


class Conll(Dataset):
    """Sentences of files with a word on each line; each task is ``tagging`` with one column of tags.

    A tag that no training sentence has is no label, as is one of ``missing``: both count nowhere, and a note says how many there
    are. Vocabulary and tags are those of the training part.

    Args:
        path: a file, or several to put one after the other; the columns are found as ``conll_files.py`` says.
        tasks: by name, their options: ``columns`` (the one column; default: the task's name), ``role``, ``metric``, ``classes``
            (their order), ``output`` (softmax or crf); or just a list of names.
        test_path: file(s) whose sentences are the test part; the split then divides the others.
        validation_path: file(s) whose sentences are the validation part.
        only: train only these tasks; sentences and vocabulary stay the same.
        word: the column of words; null: ``form``, ``word`` or ``token``, else the first.
        names: names of the columns, where the files do not say them, or other ones.
        missing: what stands for a tag that is not there.
        lowercase: whether words are compared in lower case; letters keep theirs.
        min_count: words that come up less often in training are unknown.
        max_words: size of the vocabulary; null: no limit.
        characters: whether the letters of words are inputs, too.
        max_letters: of a longer word the first and last letters are read, half of this number each.
        max_length: words of a sentence that are read; null: all. Of a longer one the rest has neither input nor label.
        split: ``validation`` and ``test`` (shares of the sentences).
        fold: test on this one of ``folds`` parts; ``split.test`` is not used then.
        split_seed: moves the split.
        on_error: what to do about a line with too few or too many values: stop, or skip its sentence.
        max_errors: how many sentences may be skipped.
    """

    provides = frozenset({"tokens", "characters"})

    def __init__(
        self,
        path: str | list[str],
        tasks: dict[str, dict[str, Any] | None] | list[str],
        *,
        test_path: str | list[str] | None = None,
        validation_path: str | list[str] | None = None,
        only: list[str] | None = None,
        word: str | None = None,
        names: list[str] | None = None,
        missing: Sequence[str] = ("_",),
        lowercase: bool = True,
        min_count: Annotated[int, Ge(1)] = 1,
        max_words: Annotated[int, Ge(1)] | None = None,
        characters: bool = True,
        max_letters: Annotated[int, Ge(2)] = 20,
        max_length: Annotated[int, Ge(1)] | None = None,
        encoding: str = "utf-8",
        split: dict[str, Any] | None = None,
        fold: Annotated[int, Ge(0)] | None = None,
        folds: Annotated[int, Ge(2)] = 5,
        split_seed: int = 0,
        on_error: Literal["stop", "skip"] = "stop",
        max_errors: Annotated[int, Ge(0)] = 100,
        stream: str = "input",
    ) -> None:
        self.paths = {"train": texts(path), "validation": texts(validation_path), "test": texts(test_path)}
        named = tasks if isinstance(tasks, Mapping) else dict.fromkeys(tasks)
        self.options = task_options(named, TASK_KEYS, dict.fromkeys(map(str, named), "tagging"))
        for options in self.options.values():
            if len(options.columns) > 1:
                raise UserError(f"dataset.tasks.{options.name}.columns: tags are one column; typed: {choices(options.columns)}")
        self.only, self.word, self.missing, self.stream = only, word, texts(missing), stream
        self.fitting = {"lowercase": lowercase, "min_count": min_count, "most": max_words}
        self.max_letters = max_letters if characters else None
        self.max_length = max_length
        self.form = Format(texts(names), encoding)
        self.splitting = Splitting.of(split or {}, fold, folds, split_seed)
        if self.splitting.by != "random":
            raise UserError(f"dataset.split.by={self.splitting.by}: sentences are split at random, or by test_path")
        self.on_error: tuple[OnError, int] = (on_error, max_errors)

    def load(self) -> Data:
        """Read, split, count words and tags of the training part, prepare."""
        skipping = Skipping(*self.on_error)
        rows, parts = self._read(skipping)
        word = self._word_column(rows)
        words: list[Sentence] = rows.column(word).to_pylist()
        tags = {name: self._tags(rows, name, parts["train"]) for name in self.options}
        prepared = self._fitted(word, words, parts["train"], tags)
        splits = {part: _part(prepared, rows.take(pa.array(places)), places) for part, places in parts.items()}
        specs = {name: described(each.spec(self.stream), self.options[name]) for name, each in tags.items()}
        notes = [line for paths in self.paths.values() for path in paths for line in mark_notes(existing(path))]
        notes += self._notes(prepared, words, splits, parts)
        notes += [line for name in tags for line in _tag_notes(name, rows, prepared, words, parts)]
        notes += skipping.note("sentences")
        data = Data(splits, {self.stream: prepared.stream_spec}, specs, prepared.to_json(), fingerprint(splits), tuple(notes))
        return select(replace(data, skipped=tuple(skipping.lines)), self.only)

    def _read(self, skipping: Skipping) -> tuple[pa.Table, dict[str, Ints]]:
        """All sentences, and those of each part."""
        tables = {part: self._table(paths, skipping) for part, paths in self.paths.items() if paths}
        sizes = {part: table.num_rows for part, table in tables.items()}
        rows = pa.concat_tables(tables.values())
        ends = np.cumsum(list(sizes.values()))
        files = {part: np.arange(end - sizes[part], end) for part, end in zip(sizes, ends, strict=True)}
        if "validation" not in files:
            return rows, split(self.splitting, np.zeros((rows.num_rows, 1), np.int64), None, files.get("test"))
        if "test" in files:
            return rows, {part: files[part] for part in ("train", "validation", "test")}
        raise UserError("dataset.validation_path: with it, the test part has a file of its own, too: dataset.test_path")

    def _table(self, paths: Sequence[str], skipping: Skipping) -> pa.Table:
        tables = [next(read_sentences(path, self.form, skipping)) for path in paths]
        self.known = tuple(tables[0].schema.names[1:])
        wanted = [LINE, *dict.fromkeys([self._word_column(tables[0]), *(self._column(tables[0], name) for name in self.options)])]
        for path, table in zip(paths, tables, strict=True):
            if odd := [name for name in wanted if name not in table.schema.names]:
                raise UserError(f"{path} has no column '{odd[0]}'; it has: {choices(table.schema.names[1:])}")
            if not table.num_rows:
                raise UserError(f"{path} has no sentence")
        return pa.concat_tables([table.select(wanted) for table in tables])

    def _column(self, rows: pa.Table, name: str) -> str:
        column = (self.options[name].columns or (name,))[0]
        known(column, rows.schema.names[1:], f"dataset.tasks.{name}: column")
        return column

    def _word_column(self, rows: pa.Table) -> str:
        names = rows.schema.names[1:]
        if self.word is not None:
            known(self.word, names, "dataset.word: column")
            return self.word
        usual = [name for name in names if name.lower() in ("form", "word", "token")]
        return str((usual or names)[0])

    def _tags(self, rows: pa.Table, name: str, training: Ints) -> Tags:
        column, chosen = self._column(rows, name), self.options[name].classes
        flat = rows.column(column).take(pa.array(training)).combine_chunks().flatten()
        found = {tag for tag in flat.unique().to_pylist() if tag not in (*self.missing, "")}
        if chosen and (odd := found - set(chosen)):
            raise UserError(f"dataset.tasks.{name}.classes: the column holds {choices(sorted(odd), 5)}, too")
        if not found:
            raise UserError(f"dataset.tasks.{name}: column '{column}' has no tag in the training part")
        return Tags(column, chosen or tuple(order(found)), self.missing)

    def _fitted(self, word: str, words: Sequence[Sentence], training: Ints, tags: Mapping[str, Tags]) -> Sentences:
        seen = [each for place in training for each in words[place][: self.max_length]]
        letters = None if self.max_letters is None else Letters.of(seen, self.max_letters)
        lengths = [len(sentence) for sentence in words]
        longest = min(max(lengths), self.max_length or max(lengths))
        vocabulary = Vocabulary.of(seen, **self.fitting)  # type: ignore[arg-type]
        form = replace(self.form, known=self.known, word=word)
        return Sentences(word, Words(vocabulary, letters), tags, longest, self.max_length, form, self.stream)

    def _notes(
        self, prepared: Sentences, words: Sequence[Sentence], splits: Mapping[str, Split], parts: Mapping[str, Ints]
    ) -> list[str]:
        inputs = splits["test"].inputs[self.stream]["tokens"]
        unknown = float((inputs == 1).sum() / (inputs != 0).sum())
        known_words, letters = len(prepared.words.vocabulary.words), prepared.words.letters
        beside = f" and {len(letters.known.words)} letters" if letters else ""
        notes = [f"{known_words} words{beside}; {unknown:.1%} of the test part's words are not among them".replace("%", " %")]
        if cut := sum(len(sentence) > prepared.length for sentence in words):
            rest = sum(max(0, len(sentence) - prepared.length) for sentence in words)
            notes.append(f"{cut} sentences are longer than dataset.max_length={prepared.length}: {rest} words are not read")
        return notes


def _part(prepared: Sentences, rows: pa.Table, places: Ints) -> Split:
    """A part, its sentences as long as the longest of all parts."""
    stream, length = prepared.stream, prepared.length
    fields = prepared.words.fields(rows.column(prepared.word).to_pylist(), length)
    targets = {name: tags.labels(rows.column(tags.column).to_pylist(), length) for name, tags in prepared.tasks.items()}
    context = {"row": torch.from_numpy(places), **prepared.context(rows)}
    inputs = {name: torch.from_numpy(value) for name, value in fields.items()}
    return Split({stream: inputs}, targets, dict.fromkeys(targets, stream), {}, {stream: context})


def _tag_notes(name: str, rows: pa.Table, prepared: Sentences, words: Sequence[Sentence], parts: Mapping[str, Ints]) -> list[str]:
    """Tags that training does not have, and how far one gets with the commonest tag of each word."""
    tags = prepared.tasks[name]
    cells = rows.column(tags.column).to_pylist()
    labels = [[tags.index.get(tag, MISSING) for tag in sentence] for sentence in cells]
    notes = []
    if unseen := sorted({tag for sentence in cells for tag in sentence} - {*tags.classes, *tags.missing, ""}):
        notes.append(f"task {name}: tag {choices(unseen, 5)} is not in the training part; its words count as unlabelled")
    found, most = commonest([words[row] for row in parts["train"]], [labels[row] for row in parts["train"]])
    pairs = [pair for row in parts["test"] for pair in zip(words[row], labels[row], strict=True) if pair[1] != MISSING]
    if pairs:
        right = sum(found.get(word, most) == label for word, label in pairs) / len(pairs)
        notes.append(f"task {name}: the commonest tag of each word is right for {right:.1%} of the test part".replace("%", " %"))
    return notes
