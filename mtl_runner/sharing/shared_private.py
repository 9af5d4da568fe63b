"""A shared encoder, and a private one for each task."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Literal

import torch
from annotated_types import Ge
from torch import Tensor, nn
from torch.nn import functional

from mtl_runner.batch import Fields
from mtl_runner.encoders.base import EncoderFactory, FeatureSpec
from mtl_runner.encoders.stack import EncoderStack, run
from mtl_runner.encoders.stacked import Rows
from mtl_runner.errors import NotApplicable
from mtl_runner.seeding import Replay
from mtl_runner.sharing.base import Boundary, Inputs, Table, shared_by_several
from mtl_runner.sharing.channels import channel_axis, widened
from mtl_runner.sharing.networks import Networks
from mtl_runner.sharing.vectors import Vector


class SharedPrivate(Networks):
    """Features of task t: those of the shared encoder and those of its private one, [S(x), P_t(x)] or S(x) + P_t(x).

    Bousmalis et al., "Domain separation networks", NeurIPS 2016 (DSN), which adds them; Liu, Qiu & Huang, "Adversarial
    multi-task learning for text classification", ACL 2017, which puts them side by side: vectors and sequences along the
    width, maps along the channels.

    ``orthogonality``: λ times the mean over the tasks of ‖Sᵀ P_t‖²_F / N², S and P_t [N, d] the features of the batch, as DSN's
    code prepares them: each column minus its mean, each row then of length 1. The papers have the sum and DSN's code the
    mean over the d² entries; divided by N² it is between 0 and 1 for any batch and width. DSN's other term, the
    reconstruction of the input from both, is a task that a data set can have.

    ``adversarial``: a linear layer tells from S(x) which input stream an example is of. It learns with the cross-entropy, whose
    gradient comes to the shared encoder times -λ (Ganin & Lempitsky, "Unsupervised domain adaptation by
    backpropagation", ICML 2015). Streams count the same. With one stream all tasks read the same examples, and there is
    nothing to tell apart. In both terms a map counts as its averages over a grid of at most 4 × 4 fields, a sequence as its mean.

    Cost: that of T + 1 networks. Either term computes the features of the step's examples a second time, with the same
    dropout masks, as weightings free or divide the graph of the first; where a weighting takes several batches in a step, those
    of the last one.

    Args:
        encoder: builds encoders of the chosen architecture.
        streams: the input stream of each task.
        join: concat or sum.
        orthogonality: λ of the term that keeps shared and private features apart.
        adversarial: λ of the term that makes shared features the same for all streams; needs several.
    """

    has_shared = True

    def __init__(
        self,
        encoder: EncoderFactory,
        streams: Mapping[str, str],
        *,
        join: Literal["concat", "sum"] = "concat",
        orthogonality: Annotated[float, Ge(0)] = 0.0,
        adversarial: Annotated[float, Ge(0)] = 0.0,
    ) -> None:
        super().__init__(encoder, streams)
        if adversarial and len(self.order) < 2:
            raise NotApplicable(
                f"sharing.adversarial={adversarial}: all tasks read one input stream, so that there is nothing to tell tasks "
                "apart by; it needs several streams, and with one it has to be 0"
            )
        self.encoder = encoder(self.order, "shared")
        shape = self.features.shape
        self.axis = channel_axis(shape) if join == "concat" else None
        if join == "concat":
            self.features = FeatureSpec(widened(shape, 2))
        self.orthogonality, self.adversarial = orthogonality, adversarial
        self.vector = Vector(shape)
        self.discriminator = nn.Linear(self.vector.width, len(self.order)) if adversarial else None
        self._replay: Replay | None = None
        self._read: Inputs | None = None

    # ---- features ----------------------------------------------------------------------------------------------------

    def trunk(self, inputs: Inputs) -> Boundary:
        """The shared features of each stream."""
        if (self.orthogonality or self.adversarial) and self.training and torch.is_grad_enabled():
            if self._replay is None:
                self._replay = Replay(self)
                self._replay.buffers = []  # see _once_more
            self._replay.mark()
            self._read = inputs
        return tuple(self.encoder(stream, inputs[stream]) for stream in self.order)

    def branch(self, tasks: Sequence[str], boundary: Boundary, inputs: Inputs, apart: bool = False) -> Tensor:
        stream = self.streams[tasks[0]]
        place = self.order.index(stream)
        private = features(self.stack_list()[place], inputs[stream], self.rows(tasks, self.readers[stream]))
        shared = boundary[place] if apart else boundary[place].expand_as(private)
        return shared + private if self.axis is None else torch.cat([shared, private], self.axis)

    def shared(self) -> list[nn.Parameter]:
        return shared_by_several(self.encoder, self.streams)

    def tables(self) -> dict[str, Table]:
        return {}

    # ---- penalties ---------------------------------------------------------------------------------------------------

    def penalty(self) -> Tensor | None:
        """Of the last forward pass in training, once."""
        inputs, self._read = self._read, None
        if inputs is None or self._replay is None:
            return None
        with self._once_more(self._replay):
            terms = []
            shared = [self.vector(self.encoder(name, inputs[name]), self._mask(name, inputs)) for name in self.order]
            if self.discriminator is not None:
                terms += [self._told_apart(place, rows) / len(self.order) for place, rows in enumerate(shared)]
            if self.orthogonality:
                for stack, rows in zip(self.stack_list(), shared, strict=True):
                    private = self.vector(stack(inputs[stack.stream]), self._mask(stack.stream, inputs))
                    terms.append(self.orthogonality * overlap(rows, private).sum() / len(self.tasks))
            total = torch.stack(terms).sum()
            return total if total.requires_grad else None  # all is frozen

    @contextmanager
    def _once_more(self, replay: Replay) -> Iterator[None]:
        """Inside, masks are those of the forward pass, and what batch normalisation keeps of the batch goes into copies.

        The numbers themselves could not be set back: the graph that the penalty goes through looks at them.
        """
        kept = [(part, dict(part.named_buffers(recurse=False))) for part in self.modules() if hasattr(part, "running_mean")]
        for part, buffers in kept:
            for name, value in buffers.items():
                setattr(part, name, value.clone())
        try:
            with replay.again():
                yield
        finally:
            for part, buffers in kept:
                for name, value in buffers.items():
                    setattr(part, name, value)

    def _mask(self, stream: str, inputs: Inputs) -> Tensor | None:
        return self.encoder.mask(inputs[stream]) if len(self.vector.shape) == 2 else None

    def _told_apart(self, place: int, rows: Tensor) -> Tensor:
        """The cross-entropy of a stream's rows [N, d]; its gradient is turned round and multiplied on the way to them."""
        assert self.discriminator is not None
        turned = rows.detach() * (1 + self.adversarial) - self.adversarial * rows
        stream = torch.full((len(rows),), place, device=rows.device)
        return functional.cross_entropy(self.discriminator(turned), stream)


def features(stack: EncoderStack, fields: Fields, rows: Rows) -> Tensor:
    """Those of some networks of a stack, [T, N, …]."""
    if rows is None:
        return stack(fields)  # type: ignore[no-any-return]
    mask = stack.mask(fields)
    x, apart = run(stack.stem, fields, None, False, rows)
    for stage in stack.stages:
        x, apart = run(stage, x, mask, apart, rows)
    return x if apart else x.expand(len(rows), *x.shape)


def overlap(shared: Tensor, private: Tensor) -> Tensor:
    """‖Sᵀ P_t‖²_F / N², [T], from [N, d] and [T, N, d]: the sum of the products of the entries of S Sᵀ and P_t P_tᵀ."""
    one, other = (functional.normalize(each - each.mean(-2, keepdim=True), dim=-1) for each in (shared, private))
    return ((one @ one.mT) * (other @ other.mT)).mean((-2, -1))
