"""From a run to what its tasks use: the rows that are looked at, and all figures about them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mtl_runner.batch import Batch, Fields, labelled
from mtl_runner.config import plug
from mtl_runner.errors import UserError, choices, nearest
from mtl_runner.explain.gradients import Attributions, attribute, baseline
from mtl_runner.explain.inputs import View, inputs_of
from mtl_runner.explain.permutation import Importance, importance, permutations, surely
from mtl_runner.explain.shared import Pair, pairs
from mtl_runner.fetching import as_tensors, at_once, is_stored
from mtl_runner.folder import RunFolder
from mtl_runner.model import MultiTaskModel
from mtl_runner.predict import Trained, load, of_usable, passing_over, say_passed
from mtl_runner.seeding import derive, generator
from mtl_runner.tasks.group import pack
from mtl_runner.tracking import locate

PARTS = ("validation", "train")
ROWS = 2000
"""Rows that are shuffled, where none are asked for."""
ATTRIBUTED = 250
"""Rows of these whose outputs are attributed to the inputs, at most: a mean over them needs no more."""
INCOMPLETE = 0.01


@dataclass(frozen=True)
class Explanation:
    """What each task uses; tables are [T, I]."""

    tasks: tuple[str, ...]
    inputs: tuple[str, ...]
    metrics: tuple[str, ...]
    """The primary metric of each task."""
    importance: Importance
    used: NDArray[np.bool_]
    """Which inputs a task surely uses."""
    attributions: Attributions
    pairs: tuple[Pair, ...]
    rows: int
    of: str
    """Which rows: ``validation part``, or a file."""
    notes: tuple[str, ...]

    def users(self, place: int) -> tuple[str, ...]:
        """The tasks that surely use an input."""
        return tuple(task for task, yes in zip(self.tasks, self.used[:, place], strict=True) if yes)


def explain(
    run: str | Path,
    part: str = "validation",
    input: Path | None = None,
    repeats: int = 10,
    rows: int | None = None,
    allowed: Sequence[str] = (),
    stream: str | None = None,
) -> Explanation:
    """Permutation importance and integrated gradients of every task of a run, and what the tasks have in common.

    Args:
        run: a run folder or an MLflow run id.
        part: of the run's data set: validation or train. The test part is read once, at the end of a run.
        input: a table with labels, in place of the part.
        repeats: how often each input is shuffled, at least 2.
        rows: how many are drawn at random; None: ``ROWS`` at most.
        allowed: modules of one's own that the run's configuration may name.
        stream: whose tasks and inputs; of a run with several it has to be named.

    Raises:
        UserError: there is no such run, its data are not there or are others, or too few rows have labels; all tasks
            have an output for each token, pixel, point or box.
    """
    if part not in PARTS:
        why = ": that part is read once, at the end of a run" if part == "test" else nearest(part, PARTS)
        raise UserError(f"--part {part}{why}; allowed are {choices(PARTS)}, or labelled rows of a table with --input")
    trained = load(run, allowed=allowed, stream=stream)
    whole, reference, of = _of_table(trained, input) if input else _of_part(run, part, allowed)
    return explained(trained, whole, reference, of, repeats, rows)


def explained(
    trained: Trained, whole: Batch, reference: Batch, of: str, repeats: int = 10, rows: int | None = None, seed: int = 0
) -> Explanation:
    """As ``explain``, from the rows, and those of which the baseline is the mean."""
    model, stream = trained.model.eval(), trained.preparation.stream
    device = next(model.parameters()).device
    whole = at_once(_drawn(whole, stream, rows or ROWS, seed))
    split = pack(whole, {key: model.task_groups[key] for key in trained.groups}).to(device)
    others = {name: {key: value.to(device) for key, value in empty.items()} for name, empty in trained.others.items()}
    view, inputs = View(model, split, stream, others), inputs_of(trained.spec)
    if not view.tasks:
        lacking = f"stream {stream}" if others else "this run"
        raise UserError(f"mtl explain looks at tasks with one answer for each example, and {lacking} has none")
    shuffling = importance(
        view, inputs, permutations(split.size(stream), repeats, derive(seed, "orders")), derive(seed, "samples")
    )
    first = torch.arange(min(split.size(stream), ATTRIBUTED), device=device)
    few = replace(view, split=split.take({stream: first}))
    start = {name: value.to(device) for name, value in baseline(_reference(reference, stream, seed)).items()}
    given = attribute(few, inputs, start, derive(seed, "jumps"))
    names, tasks, used = [one.name for one in inputs], [task.name for task in view.tasks], surely(shuffling.p)
    return Explanation(
        tasks=tuple(tasks),
        inputs=tuple(names),
        metrics=tuple(task.primary.name for task in view.tasks),
        importance=shuffling,
        used=used,
        attributions=given,
        pairs=tuple(pairs(tasks, names, shuffling.drop, given.strength(), used)),
        rows=split.size(stream),
        of=of,
        notes=(*_left_out(model, stream), *_notes(whole, tasks, shuffling, given, stream)),
    )


def _of_part(run: str | Path, part: str, allowed: Sequence[str]) -> tuple[Batch, Batch, str]:
    """The part, the training part, and what to call it; the data set is read again, as the run did."""
    folder = RunFolder(locate(run))
    node, known = folder.read_config(allowed), folder.read_json("data.json").get("fingerprint")
    other = "name labelled rows of a table with --input"
    if known is None:
        raise UserError(f"{folder.path / 'data.json'}: has no fingerprint of the data that the run was trained on; {other}")
    try:
        data = plug(node["dataset"], "dataset", allowed)().load()
    except UserError as error:
        raise UserError(f"{run}: its data cannot be read again ({error}); {other}") from None
    if data.fingerprint != known:
        raise UserError(f"{run}: its data set has changed since (fingerprint {data.fingerprint}, was {known}); {other}")
    return data.splits[part], data.splits["train"], f"{part} part"


def _of_table(trained: Trained, path: Path) -> tuple[Batch, Batch, str]:
    """All rows of a table, twice, and its name."""
    preparation, names = trained.preparation, list(trained.targets)
    wanted = tuple(dict.fromkeys([*preparation.columns, *preparation.target_columns(names)]))
    found = [rows for rows in preparation.batches(path, wanted, 65536) if rows.num_rows]
    if not found:
        raise UserError(f"{path} has no rows")
    passed = passing_over(preparation)
    pieces = [
        of_usable(lambda rows: (preparation.inputs(rows), preparation.targets(rows, names)), preparation, rows, passed)[0]
        for rows in found
    ]
    say_passed(passed, "they are not looked at")
    inputs = {name: torch.cat([fields[name] for fields, _ in pieces]) for name in pieces[0][0]}
    targets = {name: torch.cat([labels[name] for _, labels in pieces]) for name in names}
    batch = Batch({preparation.stream: inputs}, targets, dict.fromkeys(names, preparation.stream))
    return batch, batch, str(path)


def _drawn(whole: Batch, stream: str, rows: int, seed: int) -> Batch:
    """So many rows of a stream at random, all where there are no more, and the labels of the tasks that read it; without
    weights, which metrics do not know."""
    own = whole.only([task for task, read in whole.streams.items() if read == stream])
    count = own.size(stream)
    if count < 2:
        raise UserError(f"{count} rows are too few to shuffle an input among them")
    picked = torch.randperm(count, generator=generator(seed, "rows"))[:rows].sort().values
    return replace(own.take({stream: picked}), weights={}, context={})


def _reference(reference: Batch, stream: str, seed: int) -> Fields:
    """The rows that the baseline is the mean of: all, and of those that have to be fetched some."""
    fields = reference.inputs[stream]
    if not any(is_stored(value) for value in fields.values()):
        return fields
    return as_tensors(_drawn(reference, stream, ROWS, seed).inputs[stream])


def _left_out(model: MultiTaskModel, stream: str) -> Iterator[str]:
    """What answers for each word, pixel, point or box, and not with one metric over examples that can be shuffled."""
    if names := [task.name for task in model.tasks if task.spec.stream == stream and task.streaming]:
        yield f"not looked at, as they have more than one answer for each example: {choices(names)}"


def _notes(whole: Batch, tasks: Sequence[str], shuffling: Importance, given: Attributions, stream: str) -> Iterator[str]:
    for task, value, gap in zip(tasks, shuffling.baseline, given.gap(), strict=True):
        if np.isnan(value):
            count = int(labelled(whole.targets[task]).sum())
            yield f"task {task}: its metric is undefined on these rows ({count} labels), so nothing can be said of its inputs"
        if gap > INCOMPLETE:
            yield f"task {task}: its attributions miss the change of its output by {gap:.1%}"
