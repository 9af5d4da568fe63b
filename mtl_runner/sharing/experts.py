"""What mixtures of experts have in common.

Shape legend: T tasks, N examples, E experts, W the width of what a gate reads.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mtl_runner.encoders.base import EncoderFactory, run_stages
from mtl_runner.encoders.stack import OneByOne, run, stack
from mtl_runner.encoders.stacked import Rows
from mtl_runner.errors import NotApplicable
from mtl_runner.sharing.base import Boundary, Inputs, Sharing, Table, shared_by_several
from mtl_runner.sharing.gates import Importance, mix
from mtl_runner.sharing.vectors import Vector

Chain = Sequence[nn.Module]
"""The stages of one expert."""


class Experts(nn.Module):
    """E chains of stages of one architecture; one of them alone computes what it would as part of an encoder, bit for bit.

    Args:
        chains: the experts; they are used up.
    """

    def __init__(self, chains: Sequence[Chain]) -> None:
        super().__init__()
        self.count = len(chains)
        put_together = stack if self.count > 1 else OneByOne
        self.stages = nn.ModuleList(put_together(stages) for stages in zip(*chains, strict=True))

    def forward(self, x: Tensor, mask: Tensor | None = None, apart: bool = False, rows: Rows = None) -> Tensor:
        """[E, N, …] from x [N, …] that all read, or, ``apart``, from x [E, N, …]; with ``rows`` E is their number."""
        if all(isinstance(stage, OneByOne) for stage in self.stages):
            return self._one_by_one(x, mask, apart, rows)
        for stage in self.stages:
            x, apart = run(stage, x, mask, apart, rows)
        return x if apart else x.expand(self.count if rows is None else len(rows), *x.shape)

    def _one_by_one(self, x: Tensor, mask: Tensor | None, apart: bool, rows: Rows) -> Tensor:
        """Each from its first stage to its last before the next begins, which caches like."""
        chains = list(zip(*(stage.parts for stage in self.stages), strict=True))
        taken = chains if rows is None else [chains[row] for row in rows]
        inputs = x.unbind() if apart else [x] * len(taken)
        return torch.stack([run_stages(chain, value, mask) for chain, value in zip(taken, inputs, strict=True)])


def numbered(count: int, first: str, name: str = "expert") -> list[str]:
    """Names of ``count`` experts, which decide their initial weights."""
    return [first, *(f"{name}_{k}" for k in range(1, count))]


class Mixture(Sharing):
    """A trunk of the stem and the first stages, then experts, each with the stages that are left.

    Args:
        encoder: builds encoders of the chosen architecture.
        streams: the input stream of each task.
        shared_stages: proportion of the encoder's stages before the experts.
    """

    def __init__(self, encoder: EncoderFactory, streams: Mapping[str, str], shared_stages: float) -> None:
        super().__init__(encoder, streams)
        self.encoder = encoder(self.order, "shared")
        self.features = self.encoder.features
        stages = len(self.encoder.stages)
        self.depth = round(shared_stages * stages)
        if self.depth == stages:
            raise NotApplicable(f"sharing.shared_stages={shared_stages}: none of the {stages} stages is left for the experts")
        self.shapes = self.encoder.shapes()[self.depth :]
        self.encoder.stages = self.encoder.stages[: self.depth]

    def chains(self, encoder: EncoderFactory, names: Sequence[str]) -> list[Chain]:
        """The stages of experts; made for all streams, as their stems may end in another shape where there are several."""
        return [list(encoder(self.order, name).stages[self.depth :]) for name in names]

    def stem(self, stream: str, inputs: Inputs) -> tuple[Tensor, Tensor | None]:
        """What experts read, and the mask."""
        fields = inputs[stream]
        return self.encoder(stream, fields), self.encoder.mask(fields)

    def before_epoch(self, epoch: int) -> None:
        for module in self.modules():
            if isinstance(module, Importance):
                module.reset()


class MultiGate(Mixture):
    """Experts for all tasks, and a gate for each task; a subclass has the gates.

    Args:
        encoder: builds encoders of the chosen architecture.
        streams: the input stream of each task.
        experts: E.
        shared_stages: proportion of the encoder's stages before the experts.
    """

    def __init__(self, encoder: EncoderFactory, streams: Mapping[str, str], experts: int, shared_stages: float) -> None:
        super().__init__(encoder, streams, shared_stages)
        self.experts = Experts(self.chains(encoder, numbered(experts, "shared")))
        self.vector = Vector(self.shapes[0])
        self.importance = Importance(len(streams), experts)

    @abstractmethod
    def weights(self, x: Tensor, apart: bool, rows: Rows) -> Tensor:
        """[T, N, E], or [T, E] where examples make no difference, from x [N, W], or, ``apart``, [T, N, W]."""

    def trunk(self, inputs: Inputs) -> Boundary:
        """For each stream the experts' outputs [E, N, …] and what gates read, [N, W]."""
        return tuple(value for stream in self.order for value in self._experts(stream, inputs))

    def _experts(self, stream: str, inputs: Inputs) -> tuple[Tensor, Tensor]:
        x, mask = self.stem(stream, inputs)
        return self.experts(x, mask), self.vector(x, mask)

    def branch(self, tasks: Sequence[str], boundary: Boundary, inputs: Inputs, apart: bool = False) -> Tensor:
        place, rows = 2 * self.order.index(self.streams[tasks[0]]), self.rows(tasks)
        weights = self.weights(boundary[place + 1], apart, rows)
        self.importance.add(weights, rows)
        return mix(weights, boundary[place], apart)

    def shared(self) -> list[nn.Parameter]:
        return [*shared_by_several(self.encoder, self.streams), *self.experts.parameters()] if len(self.tasks) > 1 else []

    def way(self) -> list[nn.Module]:
        return [*super().way(), self.experts]

    def metrics(self) -> dict[str, float]:
        return self.importance.figures("importance_cv2", self.tasks)

    def tables(self) -> dict[str, Table]:
        """The mean weights of each task's gate."""
        experts = [f"expert {e + 1}" for e in range(self.experts.count)]
        return {"gates": self.importance.table("mean gate weight of each expert", self.tasks, experts)}
