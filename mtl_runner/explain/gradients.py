"""Which inputs an output owes its value to: integrated gradients.

Sundararajan, Taly & Yan, "Axiomatic attribution for deep networks", ICML 2017.

Shape legend: N rows, P values of a field side by side, I inputs, K of them discrete, T tasks, G tasks of a group, O outputs of a
task, M points of a path.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mtl_runner.batch import Fields
from mtl_runner.explain.inputs import AT_ONCE, Input, View, owners
from mtl_runner.explain.permutation import Floats
from mtl_runner.tasks.group import TaskGroup

POINTS = (64, 256, 1024)
"""Of a path at which gradients are taken: more only where fewer miss completeness by more than ``COMPLETE``."""
COMPLETE = 5e-3
LOGARITHMS = ("count", "survival")
"""Kinds of task whose one output is the logarithm of what they predict."""
Directions = Mapping[str, Tensor]
"""What is explained of each group's outputs: f = Σ_o direction_o · output_o, [G, N, O]."""


@dataclass(frozen=True)
class Attributions:
    """What the inputs add to the tasks' outputs."""

    values: Tensor
    """[T, N, I]; the sum over the inputs is ``change``, but for the error of the integral."""
    change: Tensor
    """f(x) - f(baseline), [T, N]."""

    def gap(self) -> Floats:
        """How far completeness is missed, relative to the changes: Σ_n |Σ_i a_i - change| / Σ_n |change|, [T]."""
        missed = (self.values.double().sum(2) - self.change.double()).abs().sum(1)
        return (missed / self.change.double().abs().sum(1).clamp(min=1e-12)).numpy()

    def strength(self) -> Floats:
        """Mean |attribution| of each input, [T, I]."""
        return self.values.abs().double().mean(1).numpy()

    def mean(self) -> Floats:
        """Mean attribution of each input, [T, I]."""
        return self.values.double().mean(1).numpy()


def baseline(fields: Fields) -> Fields:
    """One row [1, …] to compare with: means of numbers, the most frequent category of a column.

    Of tokens it is the unknown one, 1; padding stays padding, see ``attribute``.
    """
    made: dict[str, Tensor] = {}
    for name, value in fields.items():
        if name == "tokens":
            made[name] = torch.ones_like(value[:1])
        else:
            made[name] = value.mean(0, keepdim=True) if value.is_floating_point() else value.mode(0, keepdim=True).values
    return made


def attribute(view: View, inputs: Sequence[Input], start: Fields, seed: int) -> Attributions:
    """a_i(x) = (x_i - x'_i) ∫_0^1 ∂f/∂x_i (x' + α (x - x')) dα for numbers, with baseline x'.

    A category has no point halfway: on the path it jumps from the baseline's to the row's own at one of the times 1 / (K + 1)
    … K / (K + 1), dealt out at random to each row's K discrete inputs, and a_i is what f jumps by. Between the jumps the integral
    is Gauss-Legendre's. Σ_i a_i = f(x) - f(x') holds for every such path, whatever the encoder does with categories.
    What differs from the paper is this, and f where a task has several outputs: see ``_directions``.

    Args:
        view: the tasks, and the rows [N] to explain.
        inputs: of the stream.
        start: the baseline, one row [1, …].
        seed: of the order of the jumps.
    """
    path = _Path(view, inputs, start, seed)
    first, last = view.outputs(path.at(0.0, 0)), view.outputs(view.fields)
    directions = {key: _directions(group, first[key], last[key]) for key, group in view.groups.items()}
    change = (_explained(last, directions) - _explained(first, directions))[view.order]
    jumps = path.jumps(directions)
    for points in POINTS if path.smooth else ():
        found = Attributions((jumps + path.integral(directions, points))[view.order], change)
        if found.gap().max() <= COMPLETE:
            return found
    return found if path.smooth else Attributions(jumps[view.order], change)


def _directions(group: TaskGroup, first: Tensor, last: Tensor) -> Tensor:
    """[G, N, O]: the logit of the positive class; of several classes that of the predicted one, less the mean of all (adding the
    same number to all logits changes no probability); a value in the user's unit, or its logarithm; of several values, as for
    ordered classes, that on the way from the baseline's to the row's, so that their attributions add up to the distance."""
    classes = len(group.kind.spec.classes)
    if last.ndim == 2:
        plain = classes or group.kind.spec.kind in LOGARITHMS
        scales = [1.0 if plain else (task.spec.scale or (1.0,))[0] for task in group.tasks]
        return last.new_tensor(scales)[:, None, None].expand(*last.shape, 1)
    if classes == last.shape[-1]:
        chosen = group.kind.decide(last, [task.spec for task in group.tasks])
        assert chosen is not None
        return torch.nn.functional.one_hot(chosen.to(last.device), classes).to(last) - 1 / classes
    return torch.nn.functional.normalize((last - first).flatten(2), dim=-1)


def _explained(outputs: Mapping[str, Tensor], directions: Directions) -> Tensor:
    """f, [T, N], on the CPU."""
    return torch.cat([_dot(outputs[key], direction) for key, direction in directions.items()]).cpu()


def _dot(outputs: Tensor, directions: Tensor) -> Tensor:
    """[G, N, …] · [G, N, O] -> [G, N]."""
    return (outputs.reshape(directions.shape) * directions).sum(-1)


class _Path:
    """From the baseline to each of the rows."""

    def __init__(self, view: View, inputs: Sequence[Input], start: Fields, seed: int) -> None:
        self.view = view
        self.end = view.fields
        self.rows = len(next(iter(self.end.values())))
        self.start = {name: value.expand(self.rows, *value.shape[1:]) for name, value in start.items()}
        if "tokens" in self.start:
            self.start["tokens"] = self.start["tokens"] * (self.end["tokens"] != 0)
        self.smooth = [name for name, value in self.end.items() if value.is_floating_point()]
        self.discrete = [place for place, one in enumerate(inputs) if one.field not in self.smooth]
        self.owner = {name: owners(inputs, name, value[0].numel()) for name, value in self.end.items()}
        draws = torch.Generator().manual_seed(seed)
        ranks = torch.rand(self.rows, len(self.discrete), generator=draws).argsort(1)  # a random order of each row
        self.turn = torch.full((self.rows, len(inputs)), -1)
        self.turn[:, self.discrete] = ranks

    def at(self, time: float, jumped: int) -> dict[str, Tensor]:
        """The fields of all rows at a time, when so many of their discrete inputs have jumped."""
        fields = {}
        for name, end in self.end.items():
            start = self.start[name]
            if name in self.smooth:
                fields[name] = start + time * (end - start)
            else:
                over = (self.turn[:, self.owner[name]] < jumped).view(end.shape).to(end.device)
                fields[name] = torch.where(over, end, start)
        return fields

    def integral(self, directions: Directions, points: int) -> Tensor:
        """What numbers add, [T, N, I], from at least so many points."""
        values, segments = self._zeros(directions), len(self.discrete) + 1
        nodes, weights = np.polynomial.legendre.leggauss(-(-points // segments))
        size = max(1, AT_ONCE // self.rows)
        for segment in range(segments):
            for some in range(0, len(nodes), size):
                times = (segment + (nodes[some : some + size] + 1) / 2) / segments
                self._add(values, directions, times.tolist(), (weights[some : some + size] / 2 / segments).tolist(), segment)
        return values

    def jumps(self, directions: Directions) -> Tensor:
        """What discrete inputs add, [T, N, I]: f changes by it when they jump, one after the other."""
        values, count = self._zeros(directions), len(self.discrete)
        for jump in range(count):
            before, after = (self.view.outputs(self.at((jump + 1) / (count + 1), jumped)) for jumped in (jump, jump + 1))
            moved = (self.turn == jump).nonzero()[:, 1]  # [N]: which input
            values[:, torch.arange(self.rows), moved] = _explained(after, directions) - _explained(before, directions)
        return values

    def _zeros(self, directions: Directions) -> Tensor:
        return torch.zeros(sum(map(len, directions.values())), self.rows, self.turn.shape[1])

    def _add(self, values: Tensor, directions: Directions, times: Sequence[float], weights: Sequence[float], jumped: int) -> None:
        points = [self.at(time, jumped) for time in times]
        fields = {name: torch.cat([point[name] for point in points]) for name in self.end}
        wanted = [fields[name].requires_grad_() for name in self.smooth]
        with (
            torch.enable_grad(),
            torch.backends.cudnn.flags(enabled=False),
        ):  # its recurrent layers have no backward outside training
            outputs = self.view.model.outputs(self.view.inputs(fields), directions)
            tasks = [
                (output * direction.repeat(len(times), 1)).sum()
                for key, own in directions.items()
                for output, direction in zip(outputs[key].reshape(len(own), -1, own.shape[-1]), own, strict=True)
            ]
        for place, task in enumerate(tasks):
            gradients = torch.autograd.grad(task, wanted, retain_graph=place + 1 < len(tasks), allow_unused=True)
            for name, gradient in zip(self.smooth, gradients, strict=True):
                if gradient is not None:
                    self._put(values[place], name, gradient.unflatten(0, (len(times), self.rows)), weights)

    def _put(self, values: Tensor, name: str, gradients: Tensor, weights: Sequence[float]) -> None:
        """Gradients [M, N, …] of a field, times the way, to the inputs [N, I]."""
        mean = torch.tensordot(gradients.new_tensor(weights), gradients, 1)
        parts = (mean * (self.end[name] - self.start[name])).flatten(1).cpu()
        values.index_add_(1, self.owner[name], parts)
