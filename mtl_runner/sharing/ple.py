"""Progressive layered extraction."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated

from annotated_types import Ge, Lt
from torch import Tensor, nn

from mtl_runner.encoders.base import EncoderFactory, SideBySide
from mtl_runner.errors import NotApplicable
from mtl_runner.sharing.base import Boundary, Inputs, Table, own, shared_by_several
from mtl_runner.sharing.experts import Chain, Experts, Mixture, numbered
from mtl_runner.sharing.extraction import Extraction
from mtl_runner.sharing.gates import Importance
from mtl_runner.sharing.vectors import Vector


class PLE(Mixture):
    """Levels of experts, of which some serve all tasks and some one task.

    The stages after the stem (and the first ``shared_stages``) are split into L = ``levels`` groups, as even as possible
    with the later ones longer; the experts of level l are copies of group l. With x_t and x_s what level l reads for task
    t and for all tasks (at level 1 both are what the stem gives), v(·) the vector of it that gates read (a map averaged over
    4 × 4 fields, a sequence over its positions), the task's experts at x_t and the shared ones at x_s, the level gives

    - x_t: the sum of the task's m experts and the S shared ones, with weights softmax(W_t v(x_t)), W_t [m + S, W];
    - x_s: that of all T m + S experts, with weights softmax(W_s v(x_s)), W_s [T m + S, W]; not at the last level.

    The features of task t are the last x_t. Tang et al., "Progressive layered extraction (PLE): A novel multi-task learning
    (MTL) model for personalized recommendations", RecSys 2020; gates have no bias there either. With one level
    it is ``cgc``. Several streams: x_s is one for each stream, and its gate sees the experts of the tasks of that stream.

    A task's experts of the earlier levels are reached by all tasks of its stream, through x_s, and thus shared; its
    experts of the last level and its gates of the last two are its own.

    Logged after each epoch: ``importance_cv2_level_<l>/<task>``, CV² of the task's mean gate weights over the experts that it
    reads (0 where all are used the same, their number - 1 where one is used alone); the mean weights are the tables
    ``gates_level_<l>`` and ``shared_gate_level_<l>``.

    Cost: that of T m + S encoders. The shared gate adds T m · (entries of the features) multiplications per example and level.
    Weightings that take each task's own gradient need T² N · (entries of what the last level reads) numbers from two levels on,
    as every task gets a gradient with respect to the x_t of all.

    Args:
        encoder: builds encoders of the chosen architecture.
        streams: the input stream of each task.
        levels: L, at most the number of stages that experts have.
        task_experts: m, of each level.
        shared_experts: S, of each level.
        shared_stages: proportion of the encoder's stages that all experts have in common, rounded to whole stages; 0 is the
            stem alone (the embeddings of a table).
    """

    def __init__(
        self,
        encoder: EncoderFactory,
        streams: Mapping[str, str],
        *,
        levels: Annotated[int, Ge(1)] = 2,
        task_experts: Annotated[int, Ge(1)] = 1,
        shared_experts: Annotated[int, Ge(1)] = 1,
        shared_stages: Annotated[float, Ge(0), Lt(1)] = 0.0,
    ) -> None:
        super().__init__(encoder, streams, shared_stages)
        stages = len(self.shapes) - 1
        if levels > stages:
            raise NotApplicable(f"sharing.levels={levels}: experts have {stages} stages, and a level needs at least one")
        self.readers = {stream: [task for task in self.tasks if streams[task] == stream] for stream in self.order}
        self.ends = [level * stages // levels for level in range(levels + 1)]
        self.shared_experts = nn.ModuleList(
            Experts(chains) for chains in self._cut(self.chains(encoder, numbered(shared_experts, "shared")))
        )
        self.levels = nn.ModuleList(nn.ModuleList() for _ in range(levels))
        for tasks in self.readers.values():
            names = [name for task in tasks for name in numbered(task_experts, task, f"{task}_expert")]
            self._add_stream(self.chains(encoder, names), len(tasks), shared_experts)
        self.importance = nn.ModuleList(Importance(len(streams), task_experts + shared_experts) for _ in range(levels))

    def _cut(self, chains: Sequence[Chain]) -> list[list[Chain]]:
        """For each level its part of the chains."""
        return [[chain[first:end] for chain in chains] for first, end in pairwise(self.ends)]

    def _add_stream(self, chains: Sequence[Chain], tasks: int, shared_experts: int) -> None:
        for level, part in enumerate(self._cut(chains)):
            last = level == len(self.levels) - 1
            extraction = Extraction(part, tasks, shared_experts, Vector(self.shapes[self.ends[level]]), last)
            self.levels[level].append(extraction)  # type: ignore[operator]

    def extraction(self, level: int, stream: str) -> Extraction:
        return self.levels[level][self.order.index(stream)]  # type: ignore[index, no-any-return]

    # ---- the way from input to features ------------------------------------------------------------------------------

    def trunk(self, inputs: Inputs) -> Boundary:
        """For each stream what the last level reads, x_t [T, N, …] or, of one level, x [N, …]; and the shared experts' outputs.

        The latter are [S, N, …].
        """
        return tuple(value for stream in self.order for value in self._levels(stream, inputs))

    def _levels(self, stream: str, inputs: Inputs) -> tuple[Tensor, Tensor]:
        common, mask = self.stem(stream, inputs)
        x, apart, rows = common, False, self.rows(self.readers[stream])
        for level, experts in enumerate(self.shared_experts[:-1]):
            extraction = self.extraction(level, stream)
            shared, outputs = experts(common, mask), extraction.outputs(x, mask, apart, None)
            weights = extraction.gates(extraction.vector(x, mask), apart)
            self.importances()[level].add(weights, rows)
            x, apart = extraction.extract(weights, outputs, shared), True
            common = extraction.share(common, outputs, shared, mask)
        return x, self.shared_experts[-1](common, mask)

    def branch(self, tasks: Sequence[str], boundary: Boundary, inputs: Inputs, apart: bool = False) -> Tensor:
        stream = self.streams[tasks[0]]
        extraction, mask = self.extraction(-1, stream), self.encoder.mask(inputs[stream])
        x, shared = boundary[2 * self.order.index(stream) :][:2]
        rows = self.rows(tasks, self.readers[stream])
        each = apart or len(self.levels) > 1
        if len(self.levels) > 1:
            x = own(x, rows, apart)
        weights = extraction.gates(extraction.vector(x, mask), each, rows)
        self.importances()[-1].add(weights, self.rows(tasks))
        return extraction.extract(weights, extraction.outputs(x, mask, each, rows), shared, apart)

    # ---- what gradients may conflict over, and what has been learned --------------------------------------------------

    def shared(self) -> list[nn.Parameter]:
        if len(self.tasks) < 2:
            return []
        parts: list[nn.Module] = [self.shared_experts]
        for level in range(len(self.levels) - 1):
            for extraction in (self.extraction(level, stream) for stream, tasks in self.readers.items() if len(tasks) > 1):
                parts += [extraction.experts, extraction.shared_gate or nn.Identity()]
                parts += [extraction.gates] if level < len(self.levels) - 2 else []
        return [*shared_by_several(self.encoder, self.streams), *(p for part in parts for p in part.parameters())]

    def way(self) -> list[nn.Module]:
        """Of each level the shared experts, and beside them the tasks'."""
        own = [[self.extraction(level, stream).experts for stream in self.order] for level in range(len(self.levels))]
        return [*super().way(), *(SideBySide([shared, *each]) for shared, each in zip(self.shared_experts, own, strict=True))]

    def importances(self) -> list[Importance]:
        """Of the tasks' gates, level by level."""
        return [module for module in self.importance if isinstance(module, Importance)]

    def suffix(self, level: int) -> str:
        """Of the names of figures and tables."""
        return f"_level_{level + 1}" if len(self.levels) > 1 else ""

    def metrics(self) -> dict[str, float]:
        figures: dict[str, float] = {}
        for level, importance in enumerate(self.importances()):
            figures |= importance.figures(f"importance_cv2{self.suffix(level)}", self.tasks)
        return figures

    def tables(self) -> dict[str, Table]:
        """The mean weights of each gate."""
        tables = {}
        m, count = self.extraction(0, self.order[0]).each, self.shared_experts[0].count
        shared = [f"shared {k + 1}" for k in range(count)]  # type: ignore[arg-type]
        own = [f"own {k + 1}" for k in range(m)]
        for level, importance in enumerate(self.importances()):
            name = self.suffix(level)
            title = "mean gate weight of each expert" + (f", level {level + 1}" if name else "")
            tables[f"gates{name}"] = importance.table(title, self.tasks, [*own, *shared])
            for stream, tasks in self.readers.items():
                if (gate := self.extraction(level, stream).shared_importance) is not None:
                    columns = [f"{task} {k + 1}" for task in tasks for k in range(m)]
                    file = f"shared_gate{name}" + (f"_{stream}" if len(self.order) > 1 else "")
                    tables[file] = gate.table(f"{title}, shared gate", [stream], [*columns, *shared])
        return tables
