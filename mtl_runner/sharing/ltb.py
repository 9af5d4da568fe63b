"""Learning to branch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from mtl_runner.encoders.base import EncoderFactory
from mtl_runner.encoders.stack import OneByOne, stack
from mtl_runner.encoders.stacked import chosen
from mtl_runner.seeding import Draws
from mtl_runner.sharing.base import Boundary, Inputs, Sharing, Table, own
from mtl_runner.sharing.stitching import mixed, side_by_side

_TINY = 1e-20


@dataclass(frozen=True)
class Tree:
    """Which copy of each stage reads which copy of the stage before, and which the tasks read."""

    parents: tuple[tuple[int, ...], ...]
    """Of each copy of each stage but the first, then of each task."""

    def paths(self, tasks: Sequence[int]) -> list[list[int]]:
        """For each stage the copy that each of some tasks passes through."""
        paths = [[self.parents[-1][task] for task in tasks]]
        for parents in reversed(self.parents[:-1]):
            paths.insert(0, [parents[copy] for copy in paths[0]])
        return paths

    def used(self, tasks: Sequence[int]) -> list[list[int]]:
        """For each stage the copies that some tasks use."""
        return [sorted(set(copies)) for copies in self.paths(tasks)]


class LTB(Sharing):
    """Every stage in K copies; each copy of the next stage, and at the end each task, reads one of them, and learns which.

    While the tree is searched, in training, child j draws its parent in each step anew, by the Gumbel-softmax trick with
    straight-through gradients,

        d_j = one-hot(argmax_i (θ_ji + ε_ji)),    backwards as softmax((θ_j + ε_j) / τ),    ε_ji standard Gumbel,

    and reads Σ_i d_ji x_i. θ [K, K] of each stage but the first, whose copies read the stem, and [T, K] of the tasks, are
    zero at the start and trained with the rest; in epoch e, τ = temperature · e^(-anneal). After ``search_epochs``, each
    child keeps its most probable parent: the tree is fixed, copies that no task uses any more are not computed, and
    training goes on. In evaluation each child reads its most probable parent at all times.

    Guo, Lee and Ulbricht, Learning to branch for multi-task learning, ICML 2020. Departures: the paper trains the tree that was
    found from new weights, here it keeps those that it has; a run that stops early within ``search_epochs``, or keeps weights
    from these, has the tree of that epoch's θ.

    Cost: while searching, that of K networks and K² multiplications per number that a copy gives and K; then that of the
    tree.

    Args:
        encoder: builds encoders of the chosen architecture.
        streams: the input stream of each task.
        copies: K; null takes the number of tasks.
        temperature: τ in the first epoch.
        anneal: how fast τ falls; at 0.5 with the root of the epoch, as in LibMTL, whose τ for 200 epochs this is.
        search_epochs: epochs after which the tree is fixed.
    """

    def __init__(
        self,
        encoder: EncoderFactory,
        streams: Mapping[str, str],
        *,
        copies: Annotated[int, Ge(1)] | None = None,
        temperature: Annotated[float, Gt(0)] = 10.0,
        anneal: Annotated[float, Ge(0)] = 0.5,
        search_epochs: Annotated[int, Ge(1)] = 10,
    ) -> None:
        super().__init__(encoder, streams)
        self.copies = copies or len(streams)
        self.temperature, self.anneal, self.search_epochs = temperature, anneal, search_epochs
        networks = [encoder(self.order, f"copy_{k}") for k in range(self.copies)]
        self.features = networks[0].features
        self.stages = nn.ModuleList(stack(stages) for stages in zip(*(network.stages for network in networks), strict=True))
        self.entry = networks[0]
        """The stems, as part of an encoder, which knows what of it is frozen."""
        self.entry.stages = nn.ModuleList()
        self.theta = nn.ParameterList(nn.Parameter(torch.zeros(self.copies, self.copies)) for _ in self.stages[1:])
        self.task_theta = nn.Parameter(torch.zeros(len(streams), self.copies))
        self.draws = Draws()
        self.tau = temperature
        self.tree: Tree | None = None
        """None while it is searched."""
        self.readers = {stream: [self.place[task] for task in streams if streams[task] == stream] for stream in self.order}

    # ---- the way from input to features ------------------------------------------------------------------------------

    def trunk(self, inputs: Inputs) -> Boundary:
        """Of each stream what the copies of the last stage give, [K, N, …]; while searching, also the tasks' noise [T, K]."""
        if self.tree is not None:
            return tuple(self._through_the_tree(self.tree, stream, inputs) for stream in self.order)
        choices = [self._choice(theta, self._noise(theta) if self.training else None) for theta in self.theta]
        features = tuple(self._through_all(choices, stream, inputs) for stream in self.order)
        return (*features, self._noise(self.task_theta)) if self.training else features

    def branch(self, tasks: Sequence[str], boundary: Boundary, inputs: Inputs, apart: bool = False) -> Tensor:
        stream, rows = self.streams[tasks[0]], self.rows(tasks)
        x = boundary[self.order.index(stream)]
        if self.tree is not None:
            used, parents = self.tree.used(self.readers[stream])[-1], self.tree.parents[-1]
            return own(x, [used.index(parents[self.place[task]]) for task in tasks], apart)
        noise = own(boundary[-1], rows, apart) if self.training else None
        choice = self._choice(chosen(self.task_theta, rows), noise)
        return torch.einsum("ik,ik...->i...", choice, x) if apart else mixed(choice, x)

    def _through_all(self, choices: Sequence[Tensor], stream: str, inputs: Inputs) -> Tensor:
        mask, x = self.entry.mask(inputs[stream]), self.entry.stem(stream, inputs[stream])
        for number, stage in enumerate(self.stages):
            x = side_by_side(stage, mixed(choices[number - 1], x) if number else x, mask, number > 0, self.copies)
        return x

    def _through_the_tree(self, tree: Tree, stream: str, inputs: Inputs) -> Tensor:
        mask, x = self.entry.mask(inputs[stream]), self.entry.stem(stream, inputs[stream])
        before: list[int] = []
        for number, (stage, copies) in enumerate(zip(self.stages, tree.used(self.readers[stream]), strict=True)):
            if number:
                x = chosen(x, [before.index(tree.parents[number - 1][copy]) for copy in copies])
            x, before = side_by_side(stage, x, mask, number > 0, len(copies), copies), copies
        return x

    def _noise(self, theta: Tensor) -> Tensor:
        """Standard Gumbel numbers."""
        draws = torch.empty_like(theta, requires_grad=False).exponential_(generator=self.draws.generator(theta.device))
        return -draws.clamp(min=_TINY).log()

    def _choice(self, theta: Tensor, noise: Tensor | None) -> Tensor:
        """[…, K]: one-hot; with noise, backwards the softmax."""
        scores = theta if noise is None else theta + noise
        choice = torch.zeros_like(scores).scatter(-1, scores.argmax(-1, keepdim=True), 1.0)
        if noise is None:
            return choice
        soft = (scores / self.tau).softmax(-1)
        return choice + (soft - soft.detach())

    # ---- the tree ----------------------------------------------------------------------------------------------------

    def before_epoch(self, epoch: int) -> None:
        self.tau = self.temperature * epoch**-self.anneal
        if epoch > self.search_epochs and self.tree is None:
            self.tree = Tree(tuple(tuple(theta.argmax(1).tolist()) for theta in (*self.theta, self.task_theta)))

    def shared(self) -> list[nn.Parameter]:
        """While searching, all but what the tasks choose by; then the copies that several tasks pass through."""
        if len(self.tasks) == 1:
            return []
        shared = [p for stream in self.order if len(self.readers[stream]) > 1 for p in self.entry.stems[stream].parameters()]
        if self.tree is None:
            return [*shared, *self.stages.parameters(), *self.theta]
        for stage, copies in zip(self.stages, self.tree.paths(range(len(self.tasks))), strict=True):
            several = [copy for copy in sorted(set(copies)) if copies.count(copy) > 1]
            if isinstance(stage, OneByOne):
                shared += [parameter for copy in several for parameter in stage.parts[copy].parameters()]
            elif several:
                shared += stage.parameters()
        return shared

    def grouping(self) -> tuple[int, ...]:
        """The parents in one line; empty while the tree is searched."""
        return () if self.tree is None else tuple(parent for line in self.tree.parents for parent in line)

    def way(self) -> list[nn.Module]:
        return [*super().way(), self.stages]

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.grouping(), dtype=torch.long)

    def set_extra_state(self, state: Tensor) -> None:
        lines = state.split([len(theta) for theta in (*self.theta, self.task_theta)]) if len(state) else ()
        self.tree = Tree(tuple(tuple(line.tolist()) for line in lines)) if lines else None

    # ---- what was learned --------------------------------------------------------------------------------------------

    def metrics(self) -> dict[str, float]:
        """``entropy``: of a child's distribution over its parents, in nats, the mean over the children."""
        with torch.no_grad():
            logs = torch.cat([*self.theta, self.task_theta]).log_softmax(1)
            return {"entropy": float(-(logs.exp() * logs).sum(1).mean())}

    def tables(self) -> dict[str, Table]:
        """The probability of each parent; once the tree is fixed, 1 for the parent of a copy that is used."""
        names = tuple(f"copy {copy}" for copy in range(1, self.copies + 1))
        tables = {}
        for number, theta in enumerate(self.theta, 1):
            title = f"which copy of stage {number} each copy of stage {number + 1} reads"
            tables[f"tree_{number + 1}"] = Table(title, names, names, self._parents(number - 1, theta.detach()))
        title, last = f"which copy of stage {len(self.stages)} each task reads", len(self.theta)
        tables["tree_tasks"] = Table(title, tuple(self.tasks), names, self._parents(last, self.task_theta.detach()))
        return tables

    def _parents(self, number: int, theta: Tensor) -> Tensor:
        if self.tree is None:
            return theta.softmax(1)
        tasks = range(len(self.tasks))
        values = torch.full_like(theta, float("nan"))
        for child in [*self.tree.used(tasks)[1:], tasks][number]:
            values[child] = 0
            values[child, self.tree.parents[number][child]] = 1
        return values
