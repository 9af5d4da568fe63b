"""The General Language Understanding Evaluation: sentences and pairs of sentences, a corpus for each task."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from annotated_types import Ge

from mtl_runner.batch import Data
from mtl_runner.datasets.base import Dataset, known, task_options
from mtl_runner.datasets.files import Expected, expect
from mtl_runner.datasets.rows.columns import MISSING_TEXTS
from mtl_runner.datasets.rows.preparation import require
from mtl_runner.datasets.rows.reading import Reading, concatenated, read
from mtl_runner.datasets.splitting import Splitting
from mtl_runner.datasets.texts import joined
from mtl_runner.datasets.words.corpus import Corpus, TextOptions
from mtl_runner.errors import UserError

WHERE = "https://gluebenchmark.com/tasks, or the addresses in its download script"
LICENCE = "each corpus has its own; they are named at https://gluebenchmark.com"


@dataclass(frozen=True)
class GlueTask:
    """A task's folder and files, and which of their columns are what."""

    folder: str
    texts: tuple[str, ...]
    label: str
    kind: str = "binary"
    classes: tuple[str, ...] = ("0", "1")
    metric: str | None = None
    names: tuple[str, ...] = ()
    """Of the columns, where the files have no header."""
    dev: str = "dev.tsv"

    @property
    def files(self) -> tuple[str, str]:
        """Training and test part."""
        return f"{self.folder}/train.tsv", f"{self.folder}/{self.dev}"


_PAIR = ("sentence1", "sentence2")
_ENTAILED = ("not_entailment", "entailment")
_THREE = ("contradiction", "neutral", "entailment")
TASKS: Mapping[str, GlueTask] = {
    "cola": GlueTask("CoLA", ("sentence",), "label", metric="mcc", names=("source", "label", "star", "sentence")),
    "sst2": GlueTask("SST-2", ("sentence",), "label", metric="accuracy"),
    "mrpc": GlueTask("MRPC", ("#1 String", "#2 String"), "Quality", metric="accuracy"),
    "stsb": GlueTask("STS-B", _PAIR, "score", "regression", (), "spearman"),
    "qqp": GlueTask("QQP", ("question1", "question2"), "is_duplicate", metric="accuracy"),
    "mnli": GlueTask("MNLI", _PAIR, "gold_label", "multiclass", _THREE, "accuracy", dev="dev_matched.tsv"),
    "qnli": GlueTask("QNLI", ("question", "sentence"), "label", classes=_ENTAILED, metric="accuracy"),
    "rte": GlueTask("RTE", _PAIR, "label", classes=_ENTAILED, metric="accuracy"),
    "wnli": GlueTask("WNLI", _PAIR, "label", metric="accuracy"),
}
"""Metrics are the benchmark's. Of two, one selects: for MRPC and QQP accuracy, not the F1 of class 1, as ``f1`` is the mean over
both classes here; for STS-B Spearman's correlation, beside which Pearson's is reported."""


class Glue(Dataset):
    """Each task is an input stream with its own sentences, from ``train.tsv`` and ``dev.tsv`` in a folder of its own.

    Wang et al., "GLUE: a multi-task benchmark and analysis platform for natural language understanding", ICLR 2019. The labels of
    the benchmark's test files are not public: its development part is the test part here (of MNLI the matched one), and
    validation is a share of the training part.

    Args:
        path: the folder that has the tasks' folders (CoLA, SST-2, MRPC, STS-B, QQP, MNLI, QNLI, RTE, WNLI).
        tasks: which of cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte, wnli, with their options ``role`` and ``metric``;
            null: all of them.
        only: train only these.
        level, tokenizer, lowercase, min_count, max_words, characters, max_letters, max_length: as in ``dataset=text``.
        split: ``validation``, a share of the training part.
        split_seed: moves the split.
        on_error, max_errors: as in ``dataset=text``.
    """

    provides = frozenset({"tokens", "characters"})

    def __init__(
        self,
        path: str,
        tasks: dict[str, dict[str, Any] | None] | list[str] | None = None,
        *,
        only: list[str] | None = None,
        level: Literal["words", "characters"] = "words",
        tokenizer: str | None = None,
        lowercase: bool = True,
        min_count: Annotated[int, Ge(1)] = 1,
        max_words: Annotated[int, Ge(1)] | None = 30000,
        characters: bool = False,
        max_letters: Annotated[int, Ge(2)] = 20,
        max_length: Annotated[int, Ge(3)] = 128,
        split: dict[str, Any] | None = None,
        split_seed: int = 0,
        on_error: Literal["stop", "skip"] = "stop",
        max_errors: Annotated[int, Ge(0)] = 100,
    ) -> None:
        tasks = list(TASKS) if tasks is None else tasks
        for name in tasks:
            known(name, TASKS, "dataset.tasks: task")
        self.options = task_options(tasks, ("role", "metric"), {name: task.kind for name, task in TASKS.items()})
        if characters and (tokenizer is not None or level == "characters"):
            raise UserError("dataset.characters=true: letters stand beside words, that is with dataset.level=words alone")
        letters = max_letters if characters else None
        self.how = TextOptions(level, tokenizer, lowercase, min_count, max_words, letters, max_length, on_error, max_errors)
        self.splitting = Splitting.of(split or {}, None, 5, split_seed)
        self.path, self.only = path, only

    def load(self) -> Data:
        """Look for all files, then read, split and prepare each task by itself."""
        wanted = [Expected(file, others=(f"{file}.gz",)) for name in self.options for file in TASKS[name].files]
        found = expect("glue", self.path, wanted, WHERE, LICENCE)
        return joined({name: self._task(name, found) for name in self.options}, self.only)

    def _task(self, name: str, found: Mapping[str, Path]) -> Data:
        task, chosen = TASKS[name], self.options[name]
        reading = Reading("\t", "utf-8", MISSING_TEXTS, task.names, quoted=False, texts=task.texts)
        wanted = [*task.texts, task.label]
        tables = [_columns(read(str(found[file]), reading), wanted) for file in task.files]
        options = replace(
            chosen, type=task.kind, columns=(task.label,), classes=task.classes, metric=chosen.metric or task.metric
        )
        corpus = Corpus(task.texts, {name: options}, self.splitting, reading, self.how, name)
        both = concatenated(tables)
        return corpus.prepared(both, np.arange(tables[0].num_rows, both.num_rows))


def _columns(table: pa.Table, names: list[str]) -> pa.Table:
    require(table, names)
    return table.select(names)
