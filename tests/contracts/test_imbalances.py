"""What every imbalance strategy promises, by the place where it acts."""

import copy
import itertools
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_resume
import torch
from handmade import options, same, training_on
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from mtl_runner import build, run
from mtl_runner.batch import MISSING, Batch, Data, Decision, Split, StreamSpec, TargetSpec, labelled
from mtl_runner.config import config_dir, plug
from mtl_runner.config.schema import plain
from mtl_runner.datasets.table import Table
from mtl_runner.errors import UserError
from mtl_runner.imbalance.base import Adjuster, Criterion, Mixer, Resampler, Sampler, SecondPhase, Strategy
from mtl_runner.imbalance.rows import unlabelled_at
from mtl_runner.loader import TrainingRows
from mtl_runner.seeding import generator
from mtl_runner.tasks import task_kinds
from mtl_runner.trainer import Trainer
from mtl_runner.training import Training

Config = Callable[..., DictConfig]
Train = Callable[..., Path]


SETTINGS = {"classifier_retraining": {"epochs": 2}}
"""Less than the defaults, where they would take long."""


def node(option: str, **changes: Any) -> dict[str, Any]:
    return {**plain(_read(option)), **SETTINGS.get(option, {}), **changes}


@cache
def _read(option: str) -> Any:
    return OmegaConf.load(config_dir() / "imbalance" / f"{option}.yaml")


def strategy(option: str, **changes: Any) -> Any:
    return plug(node(option, **changes), "imbalance")()


CLASSES: dict[str, type[Strategy]] = {
    option: plug(node(option), "imbalance").func  # type: ignore[misc]
    for option in options("imbalance")
    if node(option)
}
"""Every option but ``none``."""


def below(*bases: type[Strategy]) -> list[str]:
    return [option for option, cls in CLASSES.items() if issubclass(cls, bases)]


every = pytest.mark.parametrize("option", CLASSES)
every_resampler = pytest.mark.parametrize("option", below(Resampler))
every_sampler = pytest.mark.parametrize("option", below(Sampler))
every_criterion = pytest.mark.parametrize("option", below(Criterion))
every_adjuster = pytest.mark.parametrize("option", below(Adjuster))

TOGETHER = {"joint_sampling", "ml_ros", "ml_rus", "remedial"}
"""Resamplers that choose whole rows, with the labels of all tasks."""
COMPARES_LABELS = {"ml_ros", "ml_rus", "mlsmote", "remedial"}
"""Resamplers that compare the numbers of labels: with a single one there is nothing to do."""
TAKES_AWAY = {"remedial"}
"""Resamplers that make a "no" of a "yes": that is their method."""
NO_MEAN = {"dice": {"smooth": 0.0}, "tversky": {"smooth": 0.0}}
"""Losses that are no mean over examples, and what makes them know shares alone and not numbers of examples."""
ABOUT_POSITIVES = {"asymmetric", "dice", "tversky"}
"""Losses in which positives of a binary task are treated otherwise than negatives, as their papers have it."""


def test_every_option_stands_at_one_place() -> None:
    bases = {"data": (Resampler, Sampler), "loss": (Criterion,), "decision": (Adjuster,), "representation": (Mixer, SecondPhase)}
    for option, cls in CLASSES.items():
        assert [place for place, of in bases.items() if issubclass(cls, of)] == [cls.place], option
        assert cls.kinds and cls.kinds <= set(task_kinds()), option
        described = (config_dir() / "imbalance" / f"{option}.yaml").read_text().splitlines()
        assert described[0] == f"# @package imbalance.{option}" and described[1].startswith(f"# {cls.place.capitalize()}: "), (
            option
        )


# ---- rows: what resamplers and samplers do ----------------------------------------------------------------------------

CLASSES_OF = {"rare": (0.9, 0.1), "sort": (0.6, 0.3, 0.1), "even": (0.7, 0.3)}
"""Shares of the classes."""
NAMES = {2: ("no", "yes"), 3: ("a", "b", "c")}
LAYOUTS = {"one stream": ("input",), "two streams": ("left", "right")}
layouts = pytest.mark.parametrize("layout", LAYOUTS)


def labels(scores: Tensor, shares: tuple[float, ...], missing: bool = True) -> Tensor:
    """Classes with these shares, by the order of the scores; some are missing."""
    ranks = scores.argsort().argsort()
    ends = (torch.tensor(shares).cumsum(0) * len(scores)).round().long()[:-1]
    found = torch.bucketize(ranks, ends, right=True)
    lost = torch.arange(len(scores)) % 11 == 3 if missing else torch.zeros(len(scores), dtype=torch.bool)
    return unlabelled_at(found.float() if len(shares) == 2 else found, lost)


def spec_of(shares: tuple[float, ...], stream: str) -> TargetSpec:
    return TargetSpec("binary" if len(shares) == 2 else "multiclass", stream, classes=NAMES[len(shares)])


def skewed(layout: str = "one stream", odd: bool = False, seed: int = 0) -> tuple[Split, dict[str, TargetSpec]]:
    """Rows of numbers with skewed tasks of several kinds; tasks go to the streams in turn.

    ``odd``: also a task without any label, one with a single class, one with a class of one example, and one with two of two.
    """
    draws = generator(seed, "skewed")
    streams = LAYOUTS[layout]
    sizes = dict(zip(streams, (132, 77), strict=False))
    inputs = {name: {"numeric": torch.randn(size, 4, generator=draws)} for name, size in sizes.items()}
    targets: dict[str, Tensor] = {}
    specs: dict[str, TargetSpec] = {}

    def add(name: str, shares: tuple[float, ...], target: Callable[[Tensor], Tensor]) -> None:
        stream = streams[len(specs) % len(streams)]
        values = inputs[stream]["numeric"]
        scores = values @ torch.randn(4, generator=draws) + torch.randn(len(values), generator=draws)
        targets[name] = target(scores)
        specs[name] = spec_of(shares, stream) if shares else TargetSpec("regression", stream, shape=targets[name].shape[1:])

    for name, shares in CLASSES_OF.items():
        add(name, shares, lambda scores, name=name, shares=shares: labels(scores, shares, missing=name != "even"))  # type: ignore[misc]
    add("size", (), lambda scores: torch.where(torch.arange(len(scores)) % 7 == 2, torch.nan, scores))
    add("pair", (), lambda scores: torch.stack([scores, -scores], 1))
    if odd:
        add("empty", (0.5, 0.5), lambda scores: torch.full_like(scores, torch.nan))
        add("single", (0.5, 0.5), lambda scores: torch.zeros_like(scores))
        add("lone", (0.5, 0.3, 0.2), lambda scores: torch.where(scores == scores.max(), 2, torch.zeros(len(scores)).long()))
        add("pairs", (0.5, 0.5), lambda scores: (scores >= scores.sort().values[-2]).float())
    reading = {name: spec.stream for name, spec in specs.items()}
    weights = {name: torch.rand(len(targets[name]), generator=draws) + 0.5 for name in ("rare", "sort")}
    context = {name: {"row": 3 * torch.arange(size) + 7} for name, size in sizes.items()}
    return Split(inputs, targets, reading, weights, context), specs


def assert_alike(one: Split, other: Split) -> None:
    for name in ("inputs", "targets", "weights", "context"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=0, atol=0, equal_nan=True)
    assert one.streams == other.streams


def alike(one: Split, other: Split) -> bool:
    try:
        assert_alike(one, other)
    except AssertionError:
        return False
    return True


def served(option: str, specs: Mapping[str, TargetSpec], **changes: Any) -> dict[str, TargetSpec]:
    return {name: specs[name] for name in strategy(option, **changes).serves(specs)}


def resampled(option: str, split: Split, specs: Mapping[str, TargetSpec], seed: int = 0, **changes: Any) -> Split:
    made: Split = strategy(option, **changes)(split, served(option, specs, **changes), generator(seed))
    return made


def places(made: Split, split: Split, stream: str) -> Tensor:
    """Of each row, which one of the original ones it is; -1 for new ones."""
    rows, known = made.context[stream]["row"], split.context[stream]["row"]
    matches = rows[:, None] == known
    assert (matches.any(1) | (rows == -1)).all(), "a row that is neither original nor marked as new"
    return torch.where(matches.any(1), matches.int().argmax(1), -1)


@every_resampler
@layouts
def test_a_resampler_depends_on_its_generator_alone(option: str, layout: str) -> None:
    """Not on what it did before or on anything global, and it leaves all that it is given as it was."""
    split, specs = skewed(layout, odd=True)
    before, tasks = copy.deepcopy(split), served(option, specs)
    used = strategy(option)
    first = used(split, tasks, generator(1))
    used(split, tasks, generator(2))
    torch.rand(1), np.random.rand(1)
    before_torch, before_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]
    assert_alike(used(split, tasks, generator(1)), first)
    assert_alike(strategy(option)(split, tasks, generator(1)), first)
    assert torch.equal(torch.get_rng_state(), before_torch) and (np.random.get_state()[1] == before_numpy).all()  # type: ignore[index]
    assert_alike(split, before)


@every_resampler
@layouts
@pytest.mark.parametrize("odd", [False, True])
def test_what_a_resampler_makes_is_a_training_part(option: str, layout: str, odd: bool) -> None:
    split, specs = skewed(layout, odd)
    made = resampled(option, split, specs)
    assert made.inputs.keys() == split.inputs.keys() and made.streams == split.streams
    assert made.targets.keys() == split.targets.keys() and made.weights.keys() == split.weights.keys()
    for stream, fields in made.inputs.items():
        size = made.size(stream)
        assert size > 0
        for name, value in fields.items():
            known = split.inputs[stream][name]
            assert value.dtype == known.dtype and value.shape == (size, *known.shape[1:]) and value.isfinite().all()
        assert all(len(value) == size for value in made.context[stream].values())
    for name, target in made.targets.items():
        known = split.targets[name]
        assert target.dtype == known.dtype and target.shape == (made.size(specs[name].stream), *known.shape[1:])
        if specs[name].classes:
            assert set(target[labelled(target)].tolist()) <= set(known[labelled(known)].tolist()), f"new classes of {name}"
    for name, weight in made.weights.items():
        assert len(weight) == len(made.targets[name]) and (weight > 0).all() and weight.dtype == split.weights[name].dtype


@every_resampler
@layouts
@pytest.mark.parametrize("odd", [False, True])
def test_original_rows_keep_inputs_and_labels(option: str, layout: str, odd: bool) -> None:
    """What is not -1 in ``row`` is that row: its inputs, its weights, and for each task its label or none."""
    split, specs = skewed(layout, odd)
    made = resampled(option, split, specs)
    kept = 0
    for stream in split.inputs:
        origin = places(made, split, stream)
        old, rows = origin >= 0, origin[origin >= 0]
        kept += int(old.sum())
        assert torch.equal(made.inputs[stream]["numeric"][old], split.inputs[stream]["numeric"][rows])
        for name in (name for name, read in split.streams.items() if read == stream):
            mine, known = made.targets[name][old], split.targets[name][rows]
            fine = (mine == known) | ~labelled(mine)
            if option in TAKES_AWAY and name in served(option, specs):
                fine |= (mine == 0) & (known == 1)
            assert fine.all(), f"an original row has another label of {name}"
            if name in made.weights:
                assert torch.equal(made.weights[name][old], split.weights[name][rows])
    assert kept


def pairs_of(split: Split, task: str) -> list[tuple[int, ...]]:
    """Row and label of all original rows that are labelled for a task."""
    rows = split.context[split.streams[task]]["row"]
    target = split.targets[task]
    known = labelled(target).flatten(1).any(1) if target.ndim > 1 else labelled(target)
    known &= rows >= 0
    values = target[known].reshape(int(known.sum()), -1).tolist()
    return sorted((row, *value) for row, value in zip(rows[known].tolist(), values, strict=True))


@pytest.mark.parametrize("option", [option for option in below(Resampler) if option not in TOGETHER])
@layouts
@pytest.mark.parametrize("limit", [None, ["rare"], ["sort", "even"]], ids=str)
def test_tasks_that_are_not_served_keep_exactly_their_labels(option: str, layout: str, limit: list[str] | None) -> None:
    split, specs = skewed(layout)
    left = set(specs) - set(served(option, specs, tasks=limit))
    made = resampled(option, split, specs, tasks=limit)
    assert left
    for name in left:
        known = [pair for pair in pairs_of(split, name) if not any(map(math.isnan, pair))]
        assert [pair for pair in pairs_of(made, name) if not any(map(math.isnan, pair))] == known, name
        new = made.context[split.streams[name]]["row"] < 0
        assert not labelled(made.targets[name][new]).any(), name


@pytest.mark.parametrize("option", sorted(TOGETHER))
@layouts
def test_rows_that_are_chosen_whole_have_all_their_labels(option: str, layout: str) -> None:
    split, specs = skewed(layout)
    made = resampled(option, split, specs)
    for stream in split.inputs:
        rows = places(made, split, stream)
        assert (rows >= 0).all()
        for name in (name for name, read in split.streams.items() if read == stream):
            if option not in TAKES_AWAY or name not in served(option, specs):
                torch.testing.assert_close(made.targets[name], split.targets[name][rows], rtol=0, atol=0, equal_nan=True)


@every_resampler
def test_a_stream_without_a_served_task_stays_as_it_is(option: str) -> None:
    split, specs = skewed("two streams")
    limit = [name for name in served(option, specs) if specs[name].stream == "left"]
    made = resampled(option, split, specs, tasks=limit)
    right = [name for name in specs if specs[name].stream == "right"]
    assert_alike(made.only(right), split.only(right))
    assert not alike(made, split), "nothing is done on the other one"


@every_resampler
@layouts
def test_without_a_label_there_is_nothing_to_resample(option: str, layout: str) -> None:
    split, specs = skewed(layout)
    empty = replace(split, targets={name: unlabelled_at(target) for name, target in split.targets.items()})
    made = resampled(option, empty, specs)
    for stream in split.inputs:
        assert sorted(made.context[stream]["row"].tolist()) == sorted(split.context[stream]["row"].tolist())
    assert not any(labelled(target).any() for target in made.targets.values())


@every_resampler
@pytest.mark.parametrize("common", [2, 9])
def test_one_row_of_a_class_is_enough(option: str, common: int) -> None:
    split, specs = skewed()
    rows = torch.cat([(split.targets["rare"] == label).nonzero()[:count, 0] for label, count in ((0, common), (1, 1))])
    made = resampled(option, split.take({"input": rows}).only(["rare"]), {"rare": specs["rare"]})
    assert labelled(made.targets["rare"]).any()


@every_resampler
@layouts
def test_the_rows_of_an_epoch_depend_on_seed_and_epoch_alone(option: str, layout: str) -> None:
    """So that a resumed run sees what an uninterrupted one does; and they are others in each epoch where they claim to be."""
    split, specs = skewed(layout)
    whole, resumed = (TrainingRows(split, specs, {option: strategy(option)}, seed=3) for _ in range(2))
    epochs = [whole.epoch(number) for number in (1, 2, 3)]
    assert_alike(resumed.epoch(3), epochs[2])
    assert alike(epochs[0], epochs[1]) != CLASSES[option].renewed  # type: ignore[attr-defined]


@every_sampler
@layouts
@pytest.mark.parametrize("batch_size", [2, 5, 64, 1000])
def test_batches_have_two_rows_of_every_stream(option: str, layout: str, batch_size: int) -> None:
    for odd, seed in ((False, 0), (True, 1)):
        split, specs = skewed(layout, odd)
        before, tasks = copy.deepcopy(split), served(option, specs)
        plan = strategy(option).plan(split, tasks, batch_size, generator(seed))
        assert_alike(split, before)
        assert len(plan) == len(strategy(option).plan(split, tasks, batch_size, generator(seed + 7)))
        for rows in plan:
            assert rows.keys() == split.inputs.keys()
            for stream, index in rows.items():
                assert index.dtype == torch.long and index.device.type == "cpu" and index.ndim == 1
                assert len(index) >= min(2, split.size(stream)) and index.min() >= 0 and index.max() < split.size(stream)
        again = strategy(option).plan(split, tasks, batch_size, generator(seed))
        torch.testing.assert_close(again, plan, rtol=0, atol=0)
        other = strategy(option).plan(split, tasks, batch_size, generator(seed + 7))
        assert any(not torch.equal(a[stream], b[stream]) for a, b in zip(plan, other, strict=True) for stream in a)


@every_sampler
def test_batches_where_labels_are_few(option: str) -> None:
    """No label at all; a single row; one labelled row."""
    split, specs = skewed()
    tasks = served(option, specs)
    empty = {name: unlabelled_at(target) for name, target in split.targets.items()}
    one = {name: torch.cat([split.targets[name][:1], target[1:]]) for name, target in empty.items()}
    for part in (replace(split, targets=empty), replace(split, targets=one), split.take({"input": torch.arange(1)})):
        plan = strategy(option).plan(part, tasks, 16, generator(0))
        assert plan and all(len(rows["input"]) >= min(2, part.size("input")) for rows in plan)
        assert all(rows["input"].max() < part.size("input") for rows in plan)


# ---- whole training: nothing of validation and test ---------------------------------------------------------------------

TABLE = {"rare": {"type": "binary"}, "sort": {"type": "multiclass"}, "size": {"type": "regression"}}
SPLITS = {
    "groups": ("dataset.split={by: group, column: who, validation: 0.2, test: 0.2}",),
    "a fold of groups": (
        "dataset.split={by: group, column: who, validation: 0.2, test: 0.2}",
        "dataset.fold=1",
        "dataset.folds=4",
    ),
    "a fold": ("dataset.fold=2", "dataset.folds=4", "dataset.ignore=[who]"),
}
TELLS = 0
"""The column of numbers that is small in training rows and large in all others."""


def write_table(path: Path, trained: set[int] | None = None) -> Path:
    """A table of 240 rows in 30 groups; the first input tells training rows, where they are known, from the others."""
    draws = np.random.default_rng(0)
    x = draws.normal(size=(240, 3))
    who = draws.integers(0, 30, 240)
    rare = np.where(x[:, 0] + draws.normal(size=240) > 1.6, "yes", "no")
    sort = np.select([x[:, 1] + draws.normal(size=240) > 1.8, x[:, 2] > 0.4], ["c", "b"], "a")
    size = x @ [1.0, -1.0, 0.5] + draws.normal(size=240)
    tells = draws.normal(size=240) + [0.0 if trained is None or row in trained else 20.0 for row in range(240)]
    lines = ["who,tells,u,v,w,rare,sort,size"]
    for row in range(240):
        values = ",".join(f"{value:.4f}" for value in (tells[row], *x[row]))
        known = rare[row] if row % 9 else ""
        lines.append(f"g{who[row]},{values},{known},{sort[row]},{size[row]:.3f}")
    path.write_text("\n".join([*lines, ""]))
    return path


def on_table(path: Path, *further: str) -> list[str]:
    tasks = ",".join(f"{name}: {{type: {task['type']}}}" for name, task in TABLE.items())
    return ["dataset=table", f"dataset.path={path}", f"dataset.tasks={{{tasks}}}", *further]


def with_strategies(config: DictConfig, *chosen: str, **changes: Any) -> dict[str, Any]:
    """The configuration with these options, at their defaults but for ``changes`` of the first."""
    nodes = {option: node(option, **(changes if option == chosen[0] else {})) for option in chosen}
    return {**plain(config), "imbalance": nodes}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Data]]:
    """``told(split)``: the table, with a column that tells training rows from the others, as a file and as data."""

    @cache
    def make(split: str) -> tuple[Path, Data]:
        path = write_table(tmp_path_factory.mktemp("table") / "table.csv")
        lines = (each.removeprefix("dataset.").replace("=", ": ", 1) for each in SPLITS[split])
        options = plain(OmegaConf.create("\n".join(lines)))
        rows = Table(str(path), TABLE, **options).load().splits["train"].context["input"]["row"]
        write_table(path, set(rows.tolist()))
        return path, Table(str(path), TABLE, **options).load()

    return make


@every
@pytest.mark.parametrize("sharing", ["hard", pytest.param("none", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "split", [pytest.param(name, marks=[] if name == "a fold of groups" else pytest.mark.slow) for name in SPLITS]
)
def test_a_step_sees_nothing_of_validation_and_test(
    option: str, sharing: str, split: str, told: Callable[[str], Any], make_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither as a row nor as a part of a synthetic one: it would have too large a number in one column."""
    _, data = told(split)
    config = make_config(f"sharing={sharing}", "trainer.batch_size=64")
    values = {part: value.inputs["input"]["numeric"][:, TELLS] for part, value in data.splits.items()}
    limit = values["train"].max()
    assert limit < values["validation"].min() and limit < values["test"].min()
    trained = {name: set(data.splits["train"].context["input"][name].tolist()) for name in data.splits["train"].context["input"]}
    training = training_on(data, with_strategies(config, option))
    seen, whole = [], Trainer.objectives

    def looking(self: Trainer, batch: Batch) -> Any:
        seen.append(batch.inputs["input"]["numeric"][:, TELLS].max())
        return whole(self, batch)

    monkeypatch.setattr(Trainer, "objectives", looking)
    list(training.fit())
    assert len(seen) >= 2 and max(seen) <= limit + 1e-5
    for trainer in training.all_trainers:
        for epoch in (1, 2):
            rows = trainer.rows.epoch(epoch).context["input"]
            assert all(set(value[rows["row"] >= 0].tolist()) <= trained[name] for name, value in rows.items())


@every_adjuster
def test_decisions_are_made_on_validation_examples(
    option: str, train: Train, told: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once for each task, in the whole of a run: all of its labelled ones, and no other."""
    path, data = told("a fold of groups")
    seen: dict[str, list[Tensor]] = {}
    priors = {}
    cls: Any = CLASSES[option]
    whole = cls.fit

    def looking(self: Any, name: str, outputs: Tensor, targets: Tensor, prior: Tensor) -> Decision:
        seen.setdefault(name, []).append(targets)
        priors[name] = prior
        assert len(outputs) == len(targets)
        found: Decision = whole(self, name, outputs, targets, prior)
        return found

    monkeypatch.setattr(cls, "fit", looking)
    train(*on_table(path, *SPLITS["a fold of groups"]), f"imbalance={option}")
    assert seen.keys() == set(served(option, data.targets))
    for name, (targets,) in seen.items():
        known = data.splits["validation"].targets[name]
        assert torch.equal(targets, known[labelled(known)])
        shares = data.splits["train"].targets[name]
        counts = torch.bincount(shares[labelled(shares)].long(), minlength=len(data.targets[name].classes))
        torch.testing.assert_close(priors[name], counts / counts.sum())


# ---- losses -------------------------------------------------------------------------------------------------------------

FORMS: dict[str, tuple[str, int, tuple[int, ...]]] = {
    "binary": ("binary", 2, ()),
    "two classes": ("multiclass", 2, ()),
    "multiclass": ("multiclass", 4, ()),
    "regression": ("regression", 0, ()),
    "several outputs": ("regression", 0, (3,)),
    "binary maps": ("binary", 2, (2, 3)),
    "class maps": ("multiclass", 3, (2, 3)),
    "segmentation": ("segmentation", 3, (2, 3)),
}
"""Kind, number of classes, and shape of one example's target."""
LOSSES = [(option, form) for option in below(Criterion) for form, (kind, _, _) in FORMS.items() if kind in CLASSES[option].kinds]
OF_CLASSES = [(option, form) for option, form in LOSSES if FORMS[form][1]]
every_loss = pytest.mark.parametrize(("option", "form"), LOSSES)


def some_targets(form: str, tasks: int = 3, rows: int = 60, missing: bool = True) -> Tensor:
    """[T, N, …], each task's as skewed as the next one's is not."""
    kind, classes, shape = FORMS[form]
    draws = generator(0, "targets", form)
    if kind == "regression":
        found = torch.randn(tasks, rows, *shape, generator=draws) ** 3
    else:
        shares = torch.rand(tasks, classes, generator=draws) ** 2 + 0.05
        found = torch.multinomial(shares, rows * math.prod(shape), replacement=True, generator=draws).view(tasks, rows, *shape)
        found = found.float() if kind == "binary" else found.short() if kind == "segmentation" else found
    lost = torch.rand(found.shape, generator=draws) < (0.2 if missing else 0)
    return torch.where(lost, torch.nan if found.is_floating_point() else MISSING, found)


def some_outputs(form: str, targets: Tensor, size: float = 2.0) -> Tensor:
    kind, classes, _ = FORMS[form]
    shape = (*targets.shape, classes) if kind in ("multiclass", "segmentation") else targets.shape
    return size * torch.randn(shape, generator=generator(0, "outputs", form))


def masked(targets: Tensor) -> tuple[Tensor, Tensor]:
    """As a loss gets them: no label is missing, but some have weight 0."""
    known = labelled(targets)
    return torch.where(known, targets, 0), known.float()


def criterion_on(option: str, form: str, targets: Tensor, **changes: Any) -> Any:
    made: Criterion = strategy(option, **changes)
    made.fit(targets, FORMS[form][1])
    return made


@every_loss
def test_a_criterion_passes_over_missing_labels(option: str, form: str) -> None:
    """It learns what it would learn without these examples, and they add nothing to the loss and its gradient."""
    targets = some_targets(form, tasks=1)
    known = labelled(targets)[0]
    whole = known.flatten(1).all(1) if known.ndim > 1 else known
    if known.ndim > 1:
        targets = unlabelled_at(targets.squeeze(0), ~whole)[None]
    outputs = some_outputs(form, targets).requires_grad_()
    clean, weights = masked(targets)
    loss = criterion_on(option, form, targets).loss(outputs, clean, weights)
    loss.sum().backward()
    assert loss.isfinite().all() and (outputs.grad[:, ~whole] == 0).all() and (outputs.grad[:, whole] != 0).any()  # type: ignore[index]
    alone = criterion_on(option, form, targets[:, whole]).loss(outputs[:, whole], targets[:, whole], None)
    torch.testing.assert_close(loss, alone)
    other = torch.where(weights > 0, clean, 1)
    torch.testing.assert_close(criterion_on(option, form, targets).loss(outputs, other, weights), loss)


@every_loss
def test_several_tasks_at_once_are_as_one_by_one(option: str, form: str) -> None:
    targets = some_targets(form)
    outputs, (clean, weights) = some_outputs(form, targets).requires_grad_(), masked(targets)
    together = criterion_on(option, form, targets).loss(outputs, clean, weights)
    assert together.shape == (3,)
    for t in range(3):
        one = slice(t, t + 1)
        alone = criterion_on(option, form, targets[one]).loss(outputs[one], clean[one], weights[one])
        torch.testing.assert_close(alone, together[one])
        gradients = [torch.autograd.grad(loss, outputs, retain_graph=True)[0] for loss in (alone[0], together[t])]
        torch.testing.assert_close(*gradients)


@every_loss
def test_only_ratios_of_weights_matter(option: str, form: str) -> None:
    """Weights 1 are none; those twice as large change nothing; weight 2 is an example that is there twice."""
    targets = some_targets(form, missing=False)
    outputs = some_outputs(form, targets)
    weights = torch.randint(1, 4, targets.shape[:2], generator=generator(0)).float()
    spread = weights.view(3, -1, *(1,) * (targets.ndim - 2)).expand(targets.shape)
    made = criterion_on(option, form, targets, **NO_MEAN.get(option, {}))
    plain_loss = made.loss(outputs, targets, None)
    for constant in (1.0, 0.25, 8.0):
        torch.testing.assert_close(made.loss(outputs, targets, torch.full(targets.shape, constant)), plain_loss)
        torch.testing.assert_close(made.loss(outputs, targets, constant * spread), made.loss(outputs, targets, spread))
    ones = criterion_on(option, form, targets).loss(outputs, targets, torch.ones(targets.shape))
    torch.testing.assert_close(ones, criterion_on(option, form, targets).loss(outputs, targets, None))
    for t in range(3):
        rows = torch.repeat_interleave(torch.arange(targets.shape[1]), weights[t].long())
        repeated = criterion_on(option, form, targets).loss(outputs[:, rows], targets[:, rows], None)[t]
        torch.testing.assert_close(criterion_on(option, form, targets).loss(outputs, targets, spread)[t], repeated)


@every_loss
@pytest.mark.parametrize("size", [0.0, 1.0, 30.0, 1000.0])
def test_loss_and_gradient_are_finite(option: str, form: str, size: float) -> None:
    """At any certainty, right or wrong, in any epoch; of a task without labels the loss is 0."""
    targets = some_targets(form)
    targets[2] = torch.nan if targets.is_floating_point() else MISSING
    clean, weights = masked(targets)
    signs = torch.randint(0, 2, some_outputs(form, targets).shape, generator=generator(0)) * 2 - 1
    for shares in (weights, torch.zeros_like(weights), None):
        outputs = (size * signs).requires_grad_()
        made = criterion_on(option, form, targets)
        for epoch in range(1, 6):
            made.before_epoch(epoch, 5)
            loss = made.loss(outputs, clean, shares)
            (gradient,) = torch.autograd.grad(loss.sum(), outputs)
            assert loss.isfinite().all() and gradient.isfinite().all()
            if shares is not None:
                assert (loss[shares.flatten(1).sum(1) == 0] == 0).all()
            assert made(outputs, clean).shape == clean.shape


@every_loss
def test_a_criterion_knows_its_data_and_the_epoch_and_nothing_else(option: str, form: str) -> None:
    """Nothing of it is in a checkpoint, so it has to be the same after a resume; and a second fit begins anew."""
    targets = some_targets(form)
    outputs, (clean, weights) = some_outputs(form, targets), masked(targets)
    used = criterion_on(option, form, some_targets(form, rows=33))
    used.fit(targets, FORMS[form][1])
    for epoch in range(1, 11):
        used.before_epoch(epoch, 10)
        used.loss(outputs, clean, weights)
    resumed = criterion_on(option, form, targets)
    resumed.before_epoch(10, 10)
    torch.testing.assert_close(used.loss(outputs, clean, weights), resumed.loss(outputs, clean, weights), rtol=0, atol=0)
    assert not used.state_dict() and not list(used.parameters())


@pytest.mark.parametrize(("option", "form"), OF_CLASSES)
def test_the_order_of_classes_does_not_matter(option: str, form: str) -> None:
    if form.startswith("binary") and option in ABOUT_POSITIVES:
        pytest.skip("positives are another thing than negatives")
    targets = some_targets(form)
    (clean, weights), outputs = masked(targets), some_outputs(form, targets)
    if form.startswith("binary"):
        turned, turned_clean, turned_outputs = 1 - targets, 1 - clean, -outputs
    else:
        order = torch.randperm(FORMS[form][1], generator=generator(3))  # class c becomes order[c]
        turned = torch.where(labelled(targets), order[clean.long()], MISSING)
        turned_clean, turned_outputs = order[clean.long()], outputs[..., order.argsort()]
    for epoch in (1, 5):
        made, other = criterion_on(option, form, targets), criterion_on(option, form, turned)
        made.before_epoch(epoch, 5), other.before_epoch(epoch, 5)
        torch.testing.assert_close(other.loss(turned_outputs, turned_clean, weights), made.loss(outputs, clean, weights))


@pytest.mark.parametrize("option", [option for option, form in OF_CLASSES if form == "binary" and option not in ABOUT_POSITIVES])
def test_a_binary_task_is_one_with_two_classes(option: str) -> None:
    """Of which the first has the logit 0."""
    targets = some_targets("binary")
    (clean, weights), outputs = masked(targets), some_outputs("binary", targets)
    both = torch.stack([torch.zeros_like(outputs), outputs], -1)
    numbers = torch.where(labelled(targets), targets, MISSING).long()
    binary = criterion_on(option, "binary", targets).loss(outputs, clean, weights)
    torch.testing.assert_close(criterion_on(option, "two classes", numbers).loss(both, clean.long(), weights), binary)


@every_loss
def test_a_loss_never_waits_for_the_device(option: str, form: str) -> None:
    """On a device without values, nothing can be read; nor can it on the other side of a GPU without a wait."""
    targets = some_targets(form)
    made = criterion_on(option, form, targets).to("meta")
    clean, weights = (value.to("meta") for value in masked(targets))
    outputs = some_outputs(form, targets).to("meta").requires_grad_()
    for shares in (weights, None):
        made.loss(outputs, clean, shares).sum().backward()
    assert outputs.grad is not None and outputs.grad.shape == outputs.shape


def numbers(**weights: float) -> Data:
    """Skewed tasks as data: every part has the same rows; with these weights of tasks."""
    split, specs = skewed()
    given = {name: torch.full((split.size("input"),), float(value)) for name, value in weights.items()}
    split = replace(split, weights=given)
    return Data(dict.fromkeys(("train", "validation", "test"), split), {"input": StreamSpec({"numeric": (4,)})}, specs, {})


@every_criterion
@pytest.mark.parametrize("sharing", ["hard", pytest.param("none", marks=pytest.mark.slow)])
def test_every_loss_trains_on_mixed_batches_in_half_precision(option: str, sharing: str, make_config: Config) -> None:
    config = make_config(f"sharing={sharing}", "trainer.precision=bf16", "trainer.batch_size=40", "trainer.epochs=3")
    split, specs = skewed(odd=True)
    data = replace(numbers(), splits=dict.fromkeys(("train", "validation", "test"), split), targets=specs)
    training = training_on(data, with_strategies(config, option, *below(Mixer)))
    before = {name: value.clone() for name, value in training.model.named_parameters()}
    epochs = list(training.fit())
    assert all("skipped_steps" not in epoch.metrics for epoch in epochs)
    assert {f"train/{name}/loss" for name in specs if name != "empty"} <= epochs[-1].metrics.keys()
    still = {name for name, value in training.model.named_parameters() if torch.equal(value, before[name])}
    heads = {name for group in training.model.task_groups.values() if "empty" not in group.names for name in group.names}
    assert heads and (not still or sharing == "none")


@every
def test_weights_of_1_change_nothing(option: str, make_config: Config) -> None:
    """In a whole training, whatever the strategy does with them."""
    config = with_strategies(make_config("trainer.batch_size=40", "trainer.epochs=1"), option)

    def losses(data: Data) -> dict[str, float]:
        epochs = training_on(data, config).fit()
        return {name: value for epoch in epochs for name, value in epoch.metrics.items() if name.startswith("train/")}

    given = losses(numbers(rare=1, size=1, sort=1))
    assert len(given) == 5 and given == pytest.approx(losses(numbers()), rel=1e-3)


# ---- decisions ----------------------------------------------------------------------------------------------------------


def examples(classes: int, rows: int = 90, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs that know something of skewed targets, of logits [N] for two classes, the targets, and another prior."""
    draws = generator(seed, "examples")
    shares = torch.tensor([0.62, 0.25, 0.13][:classes])
    targets = torch.multinomial(shares, rows, replacement=True, generator=draws)
    logits = 1.5 * torch.nn.functional.one_hot(targets, classes) + torch.randn(rows, classes, generator=draws) + shares.log()
    prior = torch.tensor([0.5, 0.3, 0.2][:classes])
    outputs = logits[:, 1] - logits[:, 0] if classes == 2 else logits
    return outputs, targets.float() if classes == 2 else targets, prior / prior.sum()


def decided(option: str, outputs: Tensor, targets: Tensor, prior: Tensor) -> Decision:
    found: Decision = strategy(option).fit("task", outputs, targets, prior)
    return found


def predicted(decision: Decision, outputs: Tensor) -> Tensor:
    shifted = decision.shifted(outputs)
    return (shifted > 0).long() if outputs.ndim == 1 else shifted.argmax(-1)


adjusted = pytest.mark.parametrize(("option", "classes"), [(option, classes) for option in below(Adjuster) for classes in (2, 3)])


@adjusted
def test_a_decision_depends_on_what_was_shown(option: str, classes: int) -> None:
    """On nothing that is drawn, not on the order of examples; it can be written down, and changes something here."""
    outputs, targets, prior = examples(classes)
    state = torch.get_rng_state()
    kept = [value.clone() for value in (outputs, targets, prior)]
    first = decided(option, outputs, targets, prior)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one, other) for one, other in zip(kept, (outputs, targets, prior), strict=True))
    assert first == decided(option, outputs, targets, prior) and first != Decision()
    written = json.loads(json.dumps(asdict(first), allow_nan=False))
    assert Decision(**{**written, "offsets": tuple(written["offsets"])}) == first
    order = torch.randperm(len(outputs), generator=generator(5))
    again = decided(option, outputs[order], targets[order], prior)
    assert (again.temperature, *again.offsets) == pytest.approx((first.temperature, *first.offsets), rel=1e-5, abs=1e-6)
    assert len(first.offsets) in (0, 1 if classes == 2 else classes) and 0 < first.temperature < math.inf


@adjusted
def test_where_nothing_can_be_learnt_nothing_is_changed(option: str, classes: int) -> None:
    """Without examples, with one class only, without a prior."""
    outputs, targets, prior = examples(classes)
    alike, none = torch.full((classes,), 1 / classes), slice(0, 0)
    assert decided(option, outputs[none], targets[none], alike) == Decision()
    for label in range(classes):
        only = targets == label
        assert decided(option, outputs[only], targets[only], torch.eye(classes)[label]) == Decision()
    unknown = decided(option, outputs, targets, torch.full((classes,), torch.nan))
    assert all(map(math.isfinite, (unknown.temperature, *unknown.offsets)))
    wild = decided(option, 1e4 * outputs, targets, prior)
    assert all(map(math.isfinite, (wild.temperature, *wild.offsets)))


@adjusted
def test_decisions_do_not_depend_on_the_order_of_classes(option: str, classes: int) -> None:
    for seed in range(3):
        outputs, targets, prior = examples(classes, seed=seed)
        first = decided(option, outputs, targets, prior)
        if classes == 2:
            turned = decided(option, -outputs, 1 - targets, prior.flip(0))
            assert torch.equal(predicted(turned, -outputs), 1 - predicted(first, outputs))
            expected = tuple(-offset for offset in first.offsets)
        else:
            order = torch.tensor([2, 0, 1])  # class c becomes order[c]
            back = order.argsort()
            turned = decided(option, outputs[:, back], order[targets], prior[back])
            assert torch.equal(predicted(turned, outputs[:, back]), order[predicted(first, outputs)])
            expected = tuple(first.offsets[c] for c in back.tolist()) if first.offsets else ()
        assert (turned.temperature, *turned.offsets) == pytest.approx((first.temperature, *expected), rel=1e-4, abs=1e-5)


# ---- several at once, and whom they act on ------------------------------------------------------------------------------


@pytest.fixture
def table(tmp_path: Path) -> list[str]:
    """The overrides that make a run on the table."""
    path = write_table(tmp_path / "table.csv")
    return [*on_table(path, *SPLITS["groups"]), "encoder.dropout=0.1", "trainer.batch_size=40"]


COMPOSED = [
    ("smote", "focal", "threshold"),
    ("undersample", "ldam"),
    ("balanced_batches", "mixup"),
    ("dice", "logit_adjustment_posthoc"),
    ("oversample", "temperature"),
    ("balanced_softmax", "classifier_retraining"),
    ("threshold", "mixup"),
    ("joint_sampling", "class_weights", "temperature", "classifier_retraining"),
]
"""Reviewed: each place with each other one, and more than two."""


@pytest.mark.parametrize(
    "chosen", [pytest.param(each, marks=[] if i < 3 else pytest.mark.slow) for i, each in enumerate(COMPOSED)], ids=",".join
)
def test_the_order_across_places_does_not_matter(chosen: tuple[str, ...], table: list[str], train: Train) -> None:
    assert len({CLASSES[option].place for option in chosen}) == len(chosen)
    orders = {chosen, chosen[::-1], (*chosen[1:], chosen[0])}
    folders = [train(*table, f"imbalance=[{','.join(order)}]") for order in sorted(orders)]
    for name in ("test_metrics.json", "weights.safetensors"):
        assert len({(folder / name).read_bytes() for folder in folders}) == 1


def test_one_at_a_place_and_any_places_together(make_config: Config) -> None:
    """For every pair: two at one place are refused, both are named, and so is the place; all others are not."""
    config = make_config("dataset=table", "dataset.path=x.csv", "dataset.tasks=[t]")
    _, specs = skewed()
    refusals = dict.fromkeys(("data", "loss", "decision", "representation"), 0)
    for one, other in itertools.combinations(CLASSES, 2):
        pair, place = with_strategies(config, one, other), CLASSES[one].place
        if CLASSES[other].place != place:
            build.check_combination(pair)
            continue
        refusals[place] += 1
        for check in (build.check_combination, lambda node: build.check_strategies(node, specs, NUMBERS)):
            with pytest.raises(UserError) as refused:
                check(pair)
            said = f"imbalance=[{one},{other}]: both act on the {place}, where only one can; choose one of them"
            assert str(refused.value) == said
    assert all(refusals.values())


KINDS = {
    "yes": TargetSpec("binary", classes=("no", "yes")),
    "sort": TargetSpec("multiclass", classes=("a", "b", "c")),
    "click": TargetSpec("ranking", classes=("0", "1")),
    "stars": TargetSpec("rating"),
    "size": TargetSpec("regression"),
    "pair": TargetSpec("regression", shape=(2,)),
    "again": TargetSpec("reconstruction", shape=(4,)),
    "regions": TargetSpec("segmentation", classes=("a", "b", "c"), shape=(2, 3)),
    "far": TargetSpec("depth", shape=(2, 3)),
    "slope": TargetSpec("normals", shape=(2, 3, 3)),
    "words": TargetSpec("tagging", classes=("a", "b", "c"), shape=(3,)),
    "labels": TargetSpec("multilabel", shape=(2,), columns=("u", "v")),
    "grade": TargetSpec("ordinal", classes=("a", "b", "c")),
    "range": TargetSpec("quantile"),
    "visits": TargetSpec("count"),
    "life": TargetSpec("survival", shape=(2,)),
    "face": TargetSpec("keypoints", shape=(3, 2)),
    "boxes": TargetSpec("detection", shape=(2, 5), columns=("cat",)),
}
"""A task of every kind."""
NUMBERS = {"input": StreamSpec({"numeric": (4,)})}


@every
def test_a_strategy_serves_a_task_or_says_in_one_line_that_it_does_not(option: str, make_config: Config) -> None:
    assert {spec.kind for spec in KINDS.values()} == set(task_kinds())
    config = with_strategies(make_config(), option)
    kinds = CLASSES[option].kinds
    mine = [name for name, spec in KINDS.items() if spec.kind in kinds]
    left = [name for name in KINDS if name not in mine]
    notes = build.check_strategies(config, KINDS, NUMBERS)
    stay = "stays as it is" if len(left) == 1 else "stay as they are"
    assert notes == ([f"imbalance={option} acts on {', '.join(mine)}; {', '.join(left)} {stay}"] if left else [])
    for name in mine:
        assert build.check_strategies(config, {name: KINDS[name]}, NUMBERS) == []
        (note,) = build.check_strategies(with_strategies(make_config(), option, tasks=[name]), KINDS, NUMBERS)
        assert note.startswith(f"imbalance={option} acts on {name}; ")
    for tasks in [{name: KINDS[name]} for name in left] + ([{name: KINDS[name] for name in left}] if left else []):
        with pytest.raises(UserError, match=f"imbalance={option}: none of the tasks .* can be served; it is for") as refused:
            build.check_strategies(config, tasks, NUMBERS)
        assert "\n" not in str(refused.value) and all(kind in str(refused.value) for kind in kinds)
    with pytest.raises(UserError, match=rf"imbalance\.{option}\.tasks: there is no task yess; .*yes"):
        build.check_strategies(with_strategies(make_config(), option, tasks=[mine[0], "yess"]), KINDS, NUMBERS)


@every
def test_inputs_that_a_strategy_cannot_work_on_are_refused(option: str, make_config: Config) -> None:
    needs = CLASSES[option].needs
    for field in ("numeric", "categorical", "image", "tokens"):
        streams = {"input": StreamSpec({field: (4,)})}
        config = with_strategies(make_config(), option)
        if needs and field not in needs:
            with pytest.raises(UserError, match=f"imbalance={option} works on .*, and the inputs of .* {field}") as refused:
                build.check_strategies(config, KINDS, streams)
            assert len(str(refused.value).splitlines()) == 1
        else:
            build.check_strategies(config, KINDS, streams)


@pytest.fixture(scope="module")
def without() -> dict[str, Any]:
    """Filled by the first that needs it: what tasks end with where no strategy acts."""
    return {}


@every
def test_a_limit_to_a_task_holds_in_training(option: str, make_config: Config, without: dict[str, Any]) -> None:
    """Where networks have nothing in common, tasks that are not named end with the same weights as without the strategy.

    And the one that is named does not, but for decisions, which change no weight.
    """
    data = numbers()
    base = make_config("sharing=none", "trainer.batch_size=40", "trainer.epochs=1")
    if not without:
        without |= _trained(training_on(data, plain(base)))
    mine = served(option, data.targets)
    named = "sort" if "sort" in mine else next(iter(mine))
    config = with_strategies(base, option, tasks=[named])
    training = training_on(data, config)
    found = _trained(training)
    changed = {task for task in data.targets if not same(found[task], without[task])}
    idle = CLASSES[option].place == "decision" or (option in COMPARES_LABELS and named != "sort")
    assert changed == (set() if idle else {named})
    training.adjust(build.make_adjusters(config, data.targets))
    decided = {task.name for task in training.model.tasks if task.spec.decision != Decision()}
    assert decided == ({named} if CLASSES[option].place == "decision" else set())


def _trained(training: Training) -> dict[str, Any]:
    """The weights of each task's network after training."""
    list(training.fit())
    training.restore_best()
    return {trainer.names[0]: trainer.learner.weights() for trainer in (training._first or training.trainers)}


@every
@pytest.mark.parametrize("sharing", ["hard", pytest.param("none", marks=pytest.mark.slow)])
def test_odd_tasks_on_two_streams_are_trained(option: str, sharing: str, make_config: Config) -> None:
    """One without any label, one with a single class, a class of one example, and some that the strategy cannot serve."""
    split, specs = skewed("two streams", odd=True)
    streams = {name: StreamSpec({"numeric": (4,)}) for name in split.inputs}
    data = Data(dict.fromkeys(("train", "validation", "test"), split), streams, specs, {})
    config = with_strategies(make_config(f"sharing={sharing}", "trainer.batch_size=40", "trainer.epochs=1"), option)
    training = training_on(data, config)
    epochs = list(training.fit())
    training.restore_best()
    training.adjust(build.make_adjusters(config, specs))
    report = training.validate()
    assert all("skipped_steps" not in epoch.metrics for epoch in epochs)
    assert {name for name, loss in report.losses.items() if math.isnan(loss)} == {"empty"}
    assert math.isfinite(training.average() or math.nan)


# ---- resume -------------------------------------------------------------------------------------------------------------

killed = test_resume.killed
CASES = {
    "rows, new in each epoch": (8, "imbalance=undersample"),
    "rows, made once": (12, "imbalance=smote"),
    "batches": (7, "imbalance=balanced_batches"),
    "a loss that changes with the epoch": (10, "imbalance=ldam", "imbalance.ldam.start=0.4"),
    "decision": (9, "imbalance=threshold"),
    "mixtures": (6, "imbalance=mixup"),
    "the second phase's first epoch": (13, "imbalance=classifier_retraining", "imbalance.classifier_retraining.epochs=3"),
    "inside the second phase": (17, "imbalance=classifier_retraining", "imbalance.classifier_retraining.epochs=3"),
    "the second phase of networks": (
        52,
        "imbalance=classifier_retraining",
        "imbalance.classifier_retraining.epochs=4",
        "sharing=none",
    ),
    "all places": (17, "imbalance=[undersample,ldam,threshold,classifier_retraining]"),
}
QUICK = {"rows, new in each epoch", "a loss that changes with the epoch", "inside the second phase"}


@pytest.mark.parametrize("case", [pytest.param(case, marks=[] if case in QUICK else [pytest.mark.slow]) for case in CASES])
def test_interrupted_and_resumed_is_uninterrupted(case: str, table: list[str], train: Train, killed: Callable[..., Path]) -> None:
    step, *overrides = CASES[case]
    folder = killed(step, *table, "trainer.epochs=3", *overrides)
    if "second phase" in case:
        assert test_resume.status(folder)["epoch"] >= 3
    run.resume(folder)
    test_resume.assert_same_end(folder, train(*table, "trainer.epochs=3", *overrides))
