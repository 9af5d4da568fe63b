"""How much worse a task gets when one input is shuffled.

Breiman, "Random forests", Machine Learning 45, 2001; Fisher, Rudin & Dominici, "All models are wrong, but many are useful",
JMLR 20, 2019.

Shape legend: N rows, R repeats, B bootstrap samples of each repeat, I inputs, T tasks, G tasks of a group.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from mtl_runner.batch import Fields
from mtl_runner.explain.inputs import AT_ONCE, Input, View
from mtl_runner.tasks.group import TaskGroup

SAMPLES = 30
"""Bootstrap samples of the rows at least, over all repeats."""
LEVEL = 0.05
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Importance:
    """The drop of each task's primary metric, in its units, [T, I]; NaN where the metric is undefined."""

    baseline: Floats
    """The metric with nothing shuffled, [T]."""
    drop: Floats
    """Mean over the repeats."""
    half: Floats
    """Half of its 95 % interval."""
    p: Floats
    """One-sided: of a drop as large as this where the input is of no use."""


def permutations(rows: int, repeats: int, seed: int) -> Tensor:
    """[R, N]: orders of the rows, the same for all inputs and tasks, so that what differs between these is no luck."""
    draws = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(rows, generator=draws) for _ in range(repeats)])


def importance(view: View, inputs: Sequence[Input], orders: Tensor, seed: int) -> Importance:
    """Drop = metric - mean over the repeats of the metric with the input's values in another order.

    The variance of a drop is s² / R, s² that over the repeats, plus that over the rows which the part happens to have: the mean
    square of what the drop of a repeat changes by in bootstrap samples of the rows, less s², which is in it as well (but a
    quarter of it at least, as both are estimates). Without this part, an input that the task does not need, but on which the
    model depends a little, would be sure to help, or to harm, half of the time.

    Args:
        view: the tasks, and the rows [N] to measure them on.
        inputs: those to shuffle, one after the other.
        orders: of the rows, [R, N], R at least 2.
        seed: of the bootstrap samples.
    """
    repeats, rows = orders.shape
    draws = torch.Generator().manual_seed(seed)
    samples = torch.randint(rows, (repeats, ceil(SAMPLES / repeats), rows), generator=draws)
    own = view.outputs(view.fields)
    whole = _metrics(view, {key: value[:, None] for key, value in own.items()}, None)  # [T, 1]
    sampled = _metrics(view, {key: value[:, None].expand(-1, repeats, *value.shape[1:]) for key, value in own.items()}, samples)
    shape = len(whole), len(inputs)
    drop, half, p = np.full(shape, np.nan), np.full(shape, np.nan), np.full(shape, np.nan)
    for place, one in enumerate(inputs):
        shuffled = _shuffled_outputs(view, one, orders)
        drops = whole - _metrics(view, shuffled, None)  # [T, R]
        changes = sampled - _metrics(view, shuffled, samples) - drops[..., None]  # [T, R, B]
        drop[:, place], half[:, place], p[:, place] = _summary(drops, changes)
    return Importance(whole[:, 0], drop, half, p)


def _shuffled_outputs(view: View, one: Input, orders: Tensor) -> dict[str, Tensor]:
    """Outputs [G, R, N, …] of each group with the input's values in each of the orders."""
    rows = orders.shape[1]
    parts = []
    for some in orders.split(max(1, AT_ONCE // rows)):
        outputs = view.outputs(shuffled(view.fields, one, some))
        parts.append({key: value.unflatten(1, (len(some), rows)) for key, value in outputs.items()})
    return {key: torch.cat([part[key] for part in parts], 1) for key in parts[0]}


def shuffled(fields: Fields, one: Input, orders: Tensor) -> Fields:
    """The fields [R · N, …] with the values of an input in each of the orders [R, N], all else as it is.

    A token changes place with others of rows that have as many tokens at these positions, so that no row becomes longer.
    """
    repeats = len(orders)
    changed = {name: value.repeat(repeats, *[1] * (value.ndim - 1)) for name, value in fields.items()}
    values, places = fields[one.field], list(one.places)
    own = values.flatten(1)[:, places]  # [N, …]
    if one.field == "tokens":
        orders = _within((own != 0).sum(1), orders)
    changed[one.field].flatten(1)[:, places] = own[orders.flatten().to(own.device)]
    return changed


def _within(kinds: Tensor, orders: Tensor) -> Tensor:
    """The orders [R, N], changed so that a row gets another of its own kind [N]."""
    places = kinds.argsort(stable=True)
    result = torch.empty_like(orders)
    for order, new in zip(orders, result, strict=True):
        new[places] = order[kinds[order].argsort(stable=True)]
    return result


def _metrics(view: View, outputs: dict[str, Tensor], samples: Tensor | None) -> Floats:
    """The tasks' primary metrics [T, R] of outputs [G, R, N, …]; with samples of the rows [R, B, N] those of each, [T, R, B]."""
    found = [values for key, group in view.groups.items() for values in _of_group(view, key, group, outputs, samples)]
    return np.stack([found[place] for place in view.order])


def _of_group(view: View, key: str, group: TaskGroup, outputs: dict[str, Tensor], samples: Tensor | None) -> Iterator[Floats]:
    """As many columns as repeats or samples, evaluated as if each were a task."""
    values, targets = outputs[key], view.split.targets[key].transpose(0, 1)  # [G, R, N, …], [G, N, …]
    if samples is None:
        labels = targets[:, None].expand(-1, values.shape[1], *targets.shape[1:])
    else:
        repeat = torch.arange(len(samples))[:, None, None]
        values, labels = values[:, repeat, samples].flatten(1, 2), targets[:, samples.flatten(0, 1)]
    for task, value, label in zip(group.tasks, values, labels, strict=True):
        found = task.evaluate(value, label, [task.spec] * len(value))[task.primary.name].double().cpu().numpy()
        yield found if samples is None else found.reshape(samples.shape[:2])


def _summary(drops: Floats, changes: Floats) -> tuple[Floats, Floats, Floats]:
    """Mean, half of the 95 % interval and p, each [T]; degrees of freedom after Satterthwaite (1946)."""
    repeats = drops.shape[1]
    shuffling = drops.var(1, ddof=1) / repeats
    seen = np.isfinite(changes).sum((1, 2))  # a sample may lack a class
    sampling = np.square(np.nan_to_num(changes)).sum((1, 2)) / np.maximum(seen, 1)
    sampling = np.maximum(sampling - repeats * shuffling, sampling / 4)
    both, mean = shuffling + sampling, drops.mean(1)
    freedom = both**2 / np.maximum(shuffling**2 / (repeats - 1) + sampling**2 / np.maximum(seen, 1), 1e-300)
    error, freedom = np.sqrt(both), np.maximum(freedom, 1.0)
    p = np.where(error > 0, stats.t.sf(mean / np.where(error > 0, error, 1), freedom), np.where(mean > 0, 0.0, 1.0))
    return mean, stats.t.ppf(1 - LEVEL / 2, freedom) * error, np.where(np.isnan(mean), np.nan, p)


def surely(p: Floats) -> NDArray[np.bool_]:
    """Which of many drops are above 0 with at most 5 % chance of a single mistake among them: Holm (1979); NaN is none."""
    flat = np.where(np.isnan(p), 1.0, p).ravel()
    order = flat.argsort()
    count = int((~np.isnan(p)).sum())
    passed = flat[order] * np.maximum(count - np.arange(flat.size), 1) <= LEVEL
    found = np.zeros(flat.size, bool)
    found[order[: passed.argmin() if not passed.all() else flat.size]] = True
    return found.reshape(p.shape)
