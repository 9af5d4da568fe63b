"""Tasks whose features or outputs other tasks read."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn
from torch.func import functional_call

from mtl_runner.batch import Fields
from mtl_runner.encoders.base import EncoderFactory
from mtl_runner.encoders.stack import OneByOne, run, stack
from mtl_runner.encoders.stacked import Rows, chosen
from mtl_runner.errors import UserError
from mtl_runner.sharing.base import Boundary, Inputs, Sharing, Table, own, shared_by_several
from mtl_runner.sharing.channels import ChannelMaps, channel_axis, channels
from mtl_runner.sharing.graphs import LearnedEdges, levels
from mtl_runner.sharing.products import Products
from mtl_runner.tasks.group import TaskGroup


class TaskGraph(Sharing):
    """A directed graph without cycles: a task reads what its predecessors found out.

    z_t are features of the task's own: its own last stages on the shared features, or, with ``shared_stages: 1``, one
    linear layer along the channels and ReLU. Søgaard & Goldberg, "Deep multi-task learning with low level tasks
    supervised at lower layers", ACL 2016; Hashimoto et al., "A joint many-task model", EMNLP 2017, from which both ways to
    hand something on are; in these papers the tasks form a chain of stacked layers.

    ``through: features``: x_t = z_t + Σ_p A_tp x_p over the predecessors p of t, A_tp [channels, channels]. A loss moves its
    task's predecessors, and theirs, but for their heads.

    ``through: outputs``: x_t = z_t + Σ_p A_tp y_p, y_p the outputs of p's head as its loss reads them (logits, standardised
    values), the same for all positions of a map or a sequence. A loss moves no other task's head ever. With ``detach: true``
    y_p is a constant for it; else it moves p's stages as well, through p's head as it stands.

    ``through: product``, of events each of which happens only after another: P_t = σ(y_t) Π_p P_p, the probability that t
    and all before it happen, where y_t, the output of t's head, is the logit of t once they have. Losses and metrics read P_t,
    so that t is learned on all examples, a 0 wherever p did not happen: with {purchase: [click]} the model of Ma et al.,
    "Entire space multi-task model", SIGIR 2018, with p(purchase | click) = P_purchase / P_click. A loss moves its own head, its
    predecessors' stages, and, unlike above, their heads. Name a task's last step only: {purchase: [cart], cart: [click]}.

    ``edges: learned``: x_t = z_t + Σ_p A_pt x_p with one number A_pt for each edge, A = W ∘ max(0, φ_t - φ_p): there is no cycle
    at any time. Yu, Gao, Yin & Ji, "DAGs with no curl", ICML 2021. W starts small and the potentials φ standard normal.
    An edge turns only where training carries φ_t past φ_p. ``sparsity`` adds λ Σ |A_pt|.

    Cost: that of ``sharing=hard`` with as many shared stages, and for each edge a matrix. Where losses move
    predecessors, the own stages of all tasks are passed once for each task's gradient; not so with outputs and ``detach``.

    Args:
        encoder: builds encoders of the chosen architecture.
        streams: the input stream of each task.
        edges: the predecessors of each task that has any, {task: [predecessors]}, or learned.
        through: features, outputs or product, the last for binary and ranking tasks.
        detach: whether outputs are constants for the tasks that read them, with ``through: outputs``.
        shared_stages: proportion of the encoder's stages that is shared, rounded to whole stages.
        sparsity: λ of the learned edges.
    """

    one_stream = "a task reads what others found out about the same examples"

    def __init__(
        self,
        encoder: EncoderFactory,
        streams: Mapping[str, str],
        *,
        edges: Mapping[str, Sequence[str]] | Literal["learned"] = "learned",
        through: Literal["features", "outputs", "product"] = "features",
        detach: bool = True,
        shared_stages: Annotated[float, Ge(0), Le(1)] = 1.0,
        sparsity: Annotated[float, Ge(0)] = 0.0,
    ) -> None:
        super().__init__(encoder, streams)
        if edges == "learned" and through != "features":
            raise UserError(f"sharing.edges=learned needs sharing.through=features; for {through} give the edges")
        learned = edges == "learned"
        self.edges: dict[str, list[str]] = {} if isinstance(edges, str) else {task: list(each) for task, each in edges.items()}
        self.levels = levels(self.edges, self.tasks)
        self.outputs, self.product = through == "outputs", through == "product" and any(self.edges.values())
        self.routed = self.outputs and detach
        self.sparsity = sparsity
        self.encoder = encoder(self.order, "shared")
        self.features = self.encoder.features
        positions = {1: (), 2: (None, slice(None)), 3: (slice(None), None, None)}  # a number of a channel goes to all of them
        self._everywhere: tuple[slice | None, ...] = positions[len(self.features.shape)]
        self.own = self._own_parts(encoder, shared_stages)
        self.learned = LearnedEdges(len(self.tasks)) if learned and len(self.tasks) > 1 else None
        readers = [task for task in self.tasks if self.edges.get(task)]
        self.readers = {task: place for place, task in enumerate(sorted(readers, key=self.level))}
        self.incoming = nn.ModuleList()
        self.products: Products | None = None
        if through == "features":
            self._make_incoming(dict.fromkeys(self.tasks, channels(self.features.shape)))

    def _own_parts(self, encoder: EncoderFactory, shared_stages: float) -> nn.ModuleList:
        """What is each task's own before anything is handed on; takes the rest of the stages from the shared encoder."""
        depth = round(shared_stages * len(self.encoder.stages))
        if depth == len(self.encoder.stages):
            shape = self.features.shape
            return nn.ModuleList([ChannelMaps(len(self.tasks), shape, channels(shape)), nn.ReLU()])
        rest = [encoder(self.order, task).stages[depth:] for task in self.tasks]
        self.encoder.stages = self.encoder.stages[:depth]
        return nn.ModuleList(stack(stages) for stages in zip(*rest, strict=True))

    def meet(self, groups: Sequence[TaskGroup]) -> None:
        """Makes the matrices that read outputs, now that their width is known; or keeps the heads whose outputs are read."""
        if self.product:
            self.products = Products(groups, self.edges)
        if not self.outputs:
            return
        self._heads = list(groups)
        example = torch.zeros(1, *self.features.shape)
        with torch.no_grad():
            widths = {name: group(example)[0].numel() for group in groups for name in group.names}
        self._make_incoming(widths)

    def check_labels(self, targets: Fields) -> None:
        if self.products is not None:
            self.products.check_labels(targets)

    def _make_incoming(self, widths: Mapping[str, int]) -> None:
        """The matrices of the tasks that have predecessors, which hand on so many numbers."""
        self.widths = {task: [widths[name] for name in self.edges[task]] for task in self.readers}
        for each in self.widths.values():
            self.incoming.append(nn.Linear(sum(each), channels(self.features.shape), bias=False))

    # ---- the way from input to features ------------------------------------------------------------------------------

    def trunk(self, inputs: Inputs) -> Boundary:
        """The shared features, and where losses move predecessors those of all tasks, [T, N, …]."""
        (stream,) = self.order
        x = self.encoder(stream, inputs[stream])
        if self.routed:
            return (x,)
        z = self._own_features(x, self.encoder.mask(inputs[stream]))
        if self.learned is not None:
            return (self.learned(z),)
        if self.products is not None:
            return z, self.products.events(lambda names: chosen(z, self.rows(names)))
        return (self._through_outputs(z) if self.outputs else self._through_features(z),)

    def branch(self, tasks: Sequence[str], boundary: Boundary, inputs: Inputs, apart: bool = False) -> Tensor:
        x, rows = boundary[0], self.rows(tasks)
        return (
            self._own_features(x, self.encoder.mask(inputs[self.order[0]]), apart, rows) if self.routed else own(x, rows, apart)
        )

    @property
    def outputs_feed(self) -> bool:
        return self.outputs or self.product

    def together(self, task: str) -> Hashable:
        return self.levels[task] if self.outputs_feed else self.streams[task]

    def level(self, task: str) -> int:
        return self.levels[task]

    def route(self, tasks: Sequence[str], features: Tensor, outputs: Mapping[str, Tensor]) -> Tensor:
        if not self.routed or not any(task in self.readers for task in tasks):
            return features
        constant = {name: value.detach() for name, value in outputs.items()}
        return torch.stack([self._reading_outputs(task, x, constant) for task, x in zip(tasks, features, strict=True)])

    def answers(self, group: TaskGroup, features: Tensor, boundary: Boundary, apart: bool = False) -> Tensor:
        if self.products is None:
            return super().answers(group, features, boundary, apart)
        return self.products.answers(group, features, boundary[1], apart)

    def _own_features(self, x: Tensor, mask: Tensor | None, apart: bool = False, rows: Rows = None) -> Tensor:
        """z, [T, N, …]."""
        for part in self.own:
            x, apart = run(part, x, mask, apart, rows)
        return x if apart else x.expand(len(self.tasks) if rows is None else len(rows), *x.shape)

    def _through_features(self, z: Tensor) -> Tensor:
        x, axis = list(z.unbind()), channel_axis(self.features.shape)
        for task, matrix in zip(self.readers, self.incoming, strict=True):
            before = torch.cat([x[self.place[name]] for name in self.edges[task]], axis)
            x[self.place[task]] = x[self.place[task]] + matrix(before.movedim(axis, -1)).movedim(-1, axis)
        return torch.stack(x)

    def _through_outputs(self, z: Tensor) -> Tensor:
        """Level by level, with heads that are constants: their own loss alone moves them."""
        x, outputs = list(z.unbind()), dict[str, Tensor]()
        for group in self._heads:
            for name in group.names:
                x[self.place[name]] = self._reading_outputs(name, x[self.place[name]], outputs)
            constants = {name: value.detach() for name, value in group.named_parameters()}
            given = functional_call(group, constants, (torch.stack([x[self.place[name]] for name in group.names]),))
            outputs |= dict(zip(group.names, given, strict=True))
        return torch.stack(x)

    def _reading_outputs(self, task: str, x: Tensor, outputs: Mapping[str, Tensor]) -> Tensor:
        if task not in self.readers:
            return x
        read = torch.cat([outputs[name].unsqueeze(-1).flatten(1) for name in self.edges[task]], 1)
        added: Tensor = self.incoming[self.readers[task]](read)
        return x + added[(slice(None), *self._everywhere)]

    # ---- what is shared, and what was learned ------------------------------------------------------------------------

    def shared(self) -> list[nn.Parameter]:
        parameters = shared_by_several(self.encoder, self.streams)
        if self.routed or len(self.tasks) < 2:
            return parameters
        if self.learned is not None:
            return [*parameters, *self.own.parameters(), *self.learned.parameters()]
        moved = {name for before in self.edges.values() for name in before}
        incoming = [self.incoming[place] for task, place in self.readers.items() if task in moved and len(self.incoming)]
        parts = [part for stage in self.own for part in _read_by_others(stage, sorted(self.place[name] for name in moved))]
        heads = [] if self.products is None else self.products.heads
        return [*parameters, *(parameter for part in (*parts, *incoming, *heads) for parameter in part.parameters())]

    def way(self) -> list[nn.Module]:
        return [*super().way(), self.own]

    def _matrices(self) -> list[nn.Linear]:
        return [matrix for matrix in self.incoming if isinstance(matrix, nn.Linear)]

    def penalty(self) -> Tensor | None:
        return self.sparsity * self.learned.adjacency().abs().sum() if self.sparsity and self.learned is not None else None

    def tables(self) -> dict[str, Table]:
        """The graph: learned edges, or the norms of the matrices of given ones."""
        names = tuple(self.tasks)
        with torch.no_grad():
            if self.learned is not None:
                return {"graph": Table("learned edges, from rows to columns", names, names, self.learned.adjacency())}
            if not len(self.incoming):
                return {}
            values = torch.full((len(names), len(names)), torch.nan)
            for task, matrix in zip(self.readers, self._matrices(), strict=True):
                for name, part in zip(self.edges[task], matrix.weight.split(self.widths[task], 1), strict=True):
                    values[self.place[name], self.place[task]] = part.norm()
        return {"graph": Table("norm of each edge's matrix, from rows to columns", names, names, values)}


def _read_by_others(stage: nn.Module, places: Sequence[int]) -> list[nn.Module]:
    """The parts of a stage of T tasks that hold the parameters of those at ``places``."""
    if isinstance(stage, OneByOne):
        return [stage.parts[place] for place in places]
    return [stage] if places else []
