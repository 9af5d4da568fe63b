"""Adapters: small parts of a task's own inside a shared encoder."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, cast

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mtl_runner.batch import Fields
from mtl_runner.encoders.base import EncoderFactory, run_stages
from mtl_runner.errors import NotApplicable
from mtl_runner.sharing.adapted import Bottleneck, LowRank, TaskNorm, low_rank, replace
from mtl_runner.sharing.base import Boundary, Inputs, Sharing, Table, own, shared_by_several


class Adapters(Sharing):
    """One encoder for all tasks, and in it small parts that are each task's own.

    ``kind: residual``: after each stage task t has x + U_t σ(D_t x + c_t) + b_t along the channels, σ the GELU, D_t
    [``bottleneck``, channels]; for maps D_t and U_t are convolutions 1 × 1. Houlsby et al., "Parameter-efficient transfer
    learning for NLP", ICML 2019; for images Rebuffi, Bilen and Vedaldi, "Learning multiple visual domains with residual
    adapters", NeurIPS 2017, and "Efficient parametrization of multi-domain deep neural networks", CVPR 2018. It differs from
    these: adapters stand after whole stages and not inside them, those of images have the bottleneck and σ too, and the
    encoder trains with the rest (``encoder=pretrained encoder.trainable_layers=0`` freezes it).

    ``kind: low_rank`` (LoRA): a linear layer W of a stage is W + (α / r) B_t A_t for task t, A_t [r, in], B_t [out, r].
    Hu et al., "LoRA: Low-rank adaptation of large language models", ICLR 2022; here on every linear layer of the stages, the
    paper's experiments take those of the attention.

    U_t, b_t and B_t are zero at the start, and all tasks have the features that ``sharing=hard`` has.

    The activations of the T tasks are one batch of T · N rows from the first adapter on. The shared stages from there on
    draw dropout masks for each task. Batch normalisation there is each task's own, statistics, scale and shift, as in
    Rebuffi et al. 2017: over the rows of all tasks it would make a task's loss depend on the others' adapters.

    Cost: that of T networks from the first adapter on in time and activations, of one in parameters, plus per task
    about 2 · bottleneck · channels, or r (in + out), for each adapter. A weighting that needs each task's gradient passes T
    times through all of it.

    Args:
        encoder: builds encoders of the chosen architecture.
        streams: the input stream of each task.
        kind: residual or low_rank.
        bottleneck: rows of D_t, for ``residual``.
        rank: r, for ``low_rank``.
        alpha: α, for ``low_rank``.
    """

    def __init__(
        self,
        encoder: EncoderFactory,
        streams: Mapping[str, str],
        *,
        kind: Literal["residual", "low_rank"] = "residual",
        bottleneck: Annotated[int, Ge(1)] = 16,
        rank: Annotated[int, Ge(1)] = 8,
        alpha: Annotated[float, Gt(0)] = 8.0,
    ) -> None:
        super().__init__(encoder, streams)
        self.readers = {stream: [task for task in self.tasks if streams[task] == stream] for stream in self.order}
        self.encoder = encoder(self.order, "shared")
        self.features = self.encoder.features
        self.adapters = nn.ModuleList()
        if kind == "residual":
            self.adapters.extend(Bottleneck(len(streams), shape, bottleneck) for shape in self.encoder.shapes()[1:])
        else:
            replace(self.encoder.stages, nn.Linear, lambda layer: LowRank(layer, len(streams), rank, alpha / rank))
        self.first = self._first_adapted()
        for stage in self.encoder.stages[self.first :]:
            replace(stage, _BatchNorm, lambda layer: TaskNorm(layer, len(streams)))

    def trunk(self, inputs: Inputs) -> Boundary:
        """The features of all tasks: of each stream those of its tasks, [tasks, N, …]."""
        return tuple(self._all(stream, inputs[stream]) for stream in self.order)

    def branch(self, tasks: Sequence[str], boundary: Boundary, inputs: Inputs, apart: bool = False) -> Tensor:
        stream = self.streams[tasks[0]]
        return own(boundary[self.order.index(stream)], self.rows(tasks, self.readers[stream]), apart)

    def _all(self, stream: str, fields: Fields) -> Tensor:
        rows, count = self.rows(self.readers[stream]), len(self.readers[stream])
        for layer in self.encoder.modules():
            if isinstance(layer, LowRank | TaskNorm):
                layer.rows = rows
        x, mask = self.encoder.stem(stream, fields), self.encoder.mask(fields)
        x = run_stages(self.encoder.stages[: self.first], x, mask)
        mask = None if mask is None else mask.expand(count, *mask.shape).flatten(0, 1)
        if not self.adapters:
            x = run_stages(self.encoder.stages[self.first :], x.repeat(count, *(1,) * (x.ndim - 1)), mask)
            return cast(Tensor, x.unflatten(0, (count, -1)))
        x = self.adapters[0](x, None, False, rows)
        for stage, adapter in zip(self.encoder.stages[self.first :], self.adapters[self.first :], strict=True):
            x = run_stages([stage], x.flatten(0, 1), mask)
            x = adapter(x.unflatten(0, (count, -1)), None, True, rows)
        return cast(Tensor, x)

    def _first_adapted(self) -> int:
        """The first stage that runs for each task."""
        if self.adapters:
            return 1
        for place, stage in enumerate(self.encoder.stages):
            if low_rank(stage):
                return place
        raise NotApplicable(
            "sharing.kind=low_rank adapts linear layers, and the stages of this encoder have none; "
            "sharing.kind=residual takes any encoder"
        )

    def shared(self) -> list[nn.Parameter]:
        layers = [layer for layer in self.encoder.modules() if isinstance(layer, LowRank | TaskNorm)]
        private = {id(parameter) for layer in layers for parameter in layer.private()}
        return [parameter for parameter in shared_by_several(self.encoder, self.streams) if id(parameter) not in private]

    def tables(self) -> dict[str, Table]:
        """How much each task changes each stage."""
        stages: list[list[Any]] = [[each] for each in self.adapters] or [low_rank(stage) for stage in self.encoder.stages]
        names = tuple(f"stage {number}" for number, layers in enumerate(stages, 1) if layers)
        with torch.no_grad():
            squares = [torch.stack([layer.size() for layer in layers]).sum(0) for layers in stages if layers]
            values = torch.stack(squares, 1).sqrt()
        return {"adapters": Table("Frobenius norm of what the adapters add", tuple(self.tasks), names, values)}
