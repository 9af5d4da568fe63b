"""Tasks in clusters that share an encoder."""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Le, MinLen
from torch import Tensor, nn

from mtl_runner.encoders.base import Encoder, EncoderFactory, SideBySide
from mtl_runner.errors import UserError, choices, nearest
from mtl_runner.sharing.base import Boundary, Inputs, Sharing, Table, shared_by_several
from mtl_runner.sharing.relation import HeadChange, clusters_of, common_features, moved
from mtl_runner.tasks.group import TaskGroup

_LATEST = 0.5
"""Weight of the latest cosines in their running mean: at first they are those of random heads."""


class Clustered(Sharing):
    """K encoders, each for a cluster of tasks: hard sharing within a cluster, none across.

    Clusters are given with ``groups``, or found: all tasks share one encoder for ``warmup`` epochs, as in hard sharing, and then
    each cluster goes its own way. What tells which tasks belong together is a matrix R [T, T]:

    ========== ===================================================================================================
    ``by``     R
    ========== ===================================================================================================
    affinity   cosines of the tasks' gradients of the shared encoder, a running mean over the warm-up that halves the
               weight of what is older with each look (Sattler et al., Clustered federated learning, 2019, cluster by
               these cosines; Fifty et al., Efficiently identifying task groupings, NeurIPS 2021, by another affinity)
    learned    how far the heads have learned to read the same features: with A_t what training has added to the head
               of task t, the cosine of the matrices A_tᵀA_t and A_uᵀA_u (0 for features of different widths)
    ========== ===================================================================================================

    Clusters of tasks by their parameters, in turns with training, are those of Jacob et al., Clustered multi-task learning,
    NIPS 2008, and Zhou et al., Clustered multi-task learning via alternating structure optimization, NIPS 2011. These penalise
    the distance of linear tasks from the mean of their cluster; here the parameters are the heads', and tasks of a cluster have
    one encoder instead. The first clusters come from agglomerative clustering of 1 - R with average linkage. With ``by: learned``
    and ``start: copy`` a task goes over, at the start of any later epoch, to the cluster with whose other tasks it agrees more,
    but never leaves a cluster empty; heads over different encoders soon stop being alike, so that clusters settle.

    The warm-up has to be long enough for the tasks to have learned something, and should end before they overfit: gradients of
    noise agree in nothing. With early stopping the weights that are kept may be those of the warm-up, when all tasks are in one
    cluster; with ``start: initial`` its patience has to last until the new encoders are better than the old one, or be null.

    An optimizer keeps no memory of encoders that it has not trained so far. Cost: that of hard sharing for each cluster; memory
    of K encoders, of T with ``clusters: null``, and of one more with ``start: initial``.

    Args:
        encoder: builds encoders of the chosen architecture.
        streams: the input stream of each task.
        groups: the clusters as lists of task names, each task once; ``clusters``, ``by`` and the others then play no part.
        clusters: K, at most one for each task. null finds the number too: clusters merge while the mean of R over pairs of
            their tasks is above ``threshold``.
        by: affinity or learned; see above.
        warmup: epochs with one encoder for all.
        start: what a cluster goes on with: ``copy``, a copy of the encoder that all have shared; ``initial``, an encoder and
            heads with initial weights, as if the clusters had been given. That costs the epochs of the warm-up, and leaves behind
            what unrelated tasks have done to each other.
        threshold: see ``clusters``.
    """

    assignment: Tensor
    relation: Tensor
    seen: Tensor

    def __init__(
        self,
        encoder: EncoderFactory,
        streams: Mapping[str, str],
        *,
        groups: Annotated[Sequence[Annotated[Sequence[str], MinLen(1)]], MinLen(1)] | None = None,
        clusters: Annotated[int, Ge(1)] | None = 2,
        by: Literal["affinity", "learned"] = "learned",
        warmup: Annotated[int, Ge(1)] = 10,
        start: Literal["copy", "initial"] = "copy",
        threshold: Annotated[float, Ge(0), Le(1)] = 0.25,
    ) -> None:
        super().__init__(encoder, streams)
        self.given = groups is not None
        self.count, self.by, self.warmup, self.start, self.threshold = clusters, by, warmup, start, threshold
        self.labels = [0] * len(self.tasks) if groups is None else given_clusters(groups, self.tasks)
        number = max(self.labels) + 1 if self.given else min(len(self.tasks), clusters or len(self.tasks)) + self.first
        self.encoders = nn.ModuleList(encoder(self.order, self._start(cluster)) for cluster in range(number))
        self.features = self.encoders[0].features  # type: ignore[assignment]
        self.register_buffer("assignment", torch.tensor(self.labels))
        self.register_buffer("relation", torch.zeros(len(self.tasks), len(self.tasks)))
        self.register_buffer("seen", torch.zeros(len(self.tasks), len(self.tasks), dtype=torch.bool))
        self.register_load_state_dict_post_hook(_look_again)  # type: ignore[no-untyped-call]
        self.heads: HeadChange | None = None
        if not self.given:
            self._follow()
            self.affinity = "cosine" if by == "affinity" else ""

    @property
    def first(self) -> int:
        """The encoder of the first cluster: behind that of the warm-up, where clusters start from weights of their own."""
        return int(self.start == "initial" and not self.given)

    def _start(self, cluster: int) -> str:
        """The name that decides an encoder's initial weights: hard sharing's, or the task's that is alone in its cluster."""
        members = [task for task, label in zip(self.tasks, self.labels, strict=True) if label == cluster]
        return members[0] if self.given and len(members) == 1 else f"cluster_{cluster}" if cluster else "shared"

    # ---- the way from input to features ------------------------------------------------------------------------------

    def pairs(self) -> list[tuple[str, int]]:
        """The streams, and the clusters whose tasks read them: what there are features of."""
        return sorted({(self.streams[task], label) for task, label in zip(self.tasks, self.labels, strict=True)})

    def trunk(self, inputs: Inputs) -> Boundary:
        """The features of each of the ``pairs``."""
        return tuple(self.encoders[cluster](stream, inputs[stream]) for stream, cluster in self.pairs())

    def branch(self, tasks: Sequence[str], boundary: Boundary, inputs: Inputs, apart: bool = False) -> Tensor:
        pairs = self.pairs()
        places = [pairs.index((self.streams[task], self.labels[self.place[task]])) for task in tasks]
        if len(set(places)) == 1:
            return boundary[places[0]]
        return torch.stack([boundary[place][i] if apart else boundary[place] for i, place in enumerate(places)])

    def meet(self, groups: Sequence[TaskGroup]) -> None:
        if not self.given and (self.by == "learned" or self.start == "initial"):
            self.heads = HeadChange(self, groups)

    def grouping(self) -> tuple[int, ...]:
        return tuple(self.labels)

    def shared(self) -> list[nn.Parameter]:
        members: dict[int, dict[str, str]] = {}
        for task, label in zip(self.tasks, self.labels, strict=True):
            members.setdefault(label, {})[task] = self.streams[task]
        each = (shared_by_several(self.encoders[label], streams) for label, streams in members.items())  # type: ignore[arg-type]
        return list(chain.from_iterable(each))

    def way(self) -> list[nn.Module]:
        """Those of all clusters, side by side."""
        encoders = [part for part in self.encoders if isinstance(part, Encoder)]
        return [SideBySide(encoder.stems for encoder in encoders), SideBySide(encoder.stages for encoder in encoders)]

    # ---- in the course of training -----------------------------------------------------------------------------------

    @torch.no_grad()
    def before_epoch(self, epoch: int) -> None:
        if self.given:
            return
        comparable = epoch <= self.warmup + 1 or not self.first
        if self.by == "learned" and self.heads is not None and comparable:
            self.relation.copy_(common_features(self.heads.by_task(), self.tasks))
        if epoch <= self.warmup + 1:
            self._follow()
        if epoch == self.warmup + 1:
            self._assign([self.first + label for label in clusters_of(self.relation, self.count, self.threshold)])
            if self.first and self.heads is not None:
                self.heads.undo()
        elif epoch > self.warmup and self.by == "learned" and not self.first:
            self._assign(moved(self.relation, self.labels))
        self.affinity = "cosine" if self.by == "affinity" and epoch <= self.warmup else ""

    def after_epoch(self, epoch: int, affinity: Tensor | None) -> None:
        if affinity is not None and self.by == "affinity" and epoch <= self.warmup:
            known = ~affinity.isnan()
            new = affinity.nan_to_num(0).to(self.relation)
            mean = torch.where(self.seen, _LATEST * new + (1 - _LATEST) * self.relation, new)
            self.relation.copy_(torch.where(known, mean, self.relation))
            self.seen |= known

    def _follow(self) -> None:
        """The encoders that are not in use yet take the weights of the one that is; what they draw stays their own."""
        if self.start == "initial":
            return
        first = list(chain(self.encoders[0].parameters(), self.encoders[0].buffers()))
        for encoder in self.encoders[1:]:
            for value, source in zip(chain(encoder.parameters(), encoder.buffers()), first, strict=True):
                value.data.copy_(source.data)

    def _assign(self, labels: list[int]) -> None:
        self.labels = labels
        self.assignment.copy_(torch.tensor(labels))

    # ---- what came of it ---------------------------------------------------------------------------------------------

    def metrics(self) -> dict[str, float]:
        return {"clusters": float(len(set(self.labels)))}

    def tables(self) -> dict[str, Table]:
        tasks, used = tuple(self.tasks), sorted(set(self.labels))
        members = torch.tensor([[float(label == cluster) for cluster in used] for label in self.labels])
        tables = {"clusters": Table("cluster of each task", tasks, tuple(f"cluster {cluster}" for cluster in used), members)}
        if not self.given:
            title = "cosines of the tasks' gradients" if self.by == "affinity" else "how far the heads read the same features"
            tables["relation"] = Table(title, tasks, tasks, self.relation.clone().fill_diagonal_(1))
        return tables


def given_clusters(groups: Sequence[Sequence[str]], tasks: Sequence[str]) -> list[int]:
    """The cluster of each task.

    Raises:
        UserError: a name is no task's, or a task is in none or in two.
    """
    labels: dict[str, int] = {}
    for number, group in enumerate(groups):
        for task in group:
            if task not in tasks:
                raise UserError(f"sharing.groups: there is no task {task}; the tasks are {choices(tasks)}{nearest(task, tasks)}")
            if task in labels:
                raise UserError(f"sharing.groups names {task} twice; each task is in one cluster")
            labels[task] = number
    if missing := [task for task in tasks if task not in labels]:
        raise UserError(f"sharing.groups leaves out {choices(missing)}; each task is in one cluster, of its own if need be")
    return [labels[task] for task in tasks]


def _look_again(sharing: nn.Module, _: Any) -> None:
    """After loading: which encoder serves which task, without asking the device in every step."""
    assert isinstance(sharing, Clustered)
    sharing.labels = sharing.assignment.tolist()
