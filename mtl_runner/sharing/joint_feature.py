"""Networks that are to read the same inputs."""

from collections.abc import Iterator, Mapping
from typing import cast

import torch
from torch import Tensor, nn

from mtl_runner.batch import StreamSpec
from mtl_runner.encoders.base import EncoderFactory
from mtl_runner.encoders.stack import OneByOne
from mtl_runner.encoders.stacked import StackedLinear, StackedVectorStem
from mtl_runner.encoders.stems import VectorStem
from mtl_runner.sharing.base import Table
from mtl_runner.sharing.networks import Networks, Strength, per_stage

_KERNELS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class JointFeature(Networks):
    """One network per task, and a group penalty by which the tasks drop an input of a layer together or not at all.

    λ Σ_layers Σ_j √(Σ_t Σ_o W_t[o, j]²), the ℓ2,1-norm: one group is input j of a layer, with its weights to all outputs o in
    the networks of all tasks t. Obozinski, Taskar & Jordan, "Joint covariate selection and joint subspace selection for
    multiple classification problems", Statistics and Computing 20, 2010; Argyriou, Evgeniou & Pontil, "Multi-task feature
    learning", NeurIPS 2006; Liu, Ji & Ye, "Multi-task feature learning via efficient ℓ2,1-norm minimization", UAI 2009.

    An input of a linear layer is a column of its matrix, one of a convolution an input channel with its whole kernels, one of
    a recurrent layer a column of either matrix. Biases, normalisations, learned positions, stems and heads are in no
    group: of a category or token the entries of its vector are inputs of the first stage. Groups are not weighted by size.

    Groups compare layers unit by unit, so all networks start as one, with the initial weights of ``sharing=hard``, and drop
    the same units.

    The optimizer takes gradient steps, no proximal ones: √(s + 10⁻¹²) in place of √s, so that the gradient at zero is
    finite. A group that a proximal step would make zero becomes small, and jumps around zero by the learning rate.

    Cost: that of T networks; the penalty reads each weight once.

    Args:
        encoder: builds encoders of the chosen architecture.
        streams: the input stream of each task.
        strength: λ, or one for each stage of the encoder.
    """

    def __init__(
        self,
        encoder: EncoderFactory,
        streams: Mapping[str, str],
        *,
        strength: Strength = 1e-3,
    ) -> None:
        super().__init__(encoder, streams, start="shared")
        self.strengths = per_stage(strength, len(self.stack_list()[0].stages))

    def layers(self) -> list[list[Tensor]]:
        """Of each stage the weights of its layers, [T, out, in, …], in the order of ``by_stream``."""
        stacks = self.stack_list()
        return [
            [torch.cat(same) for same in zip(*(weights(stage) for stage in stages), strict=True)]
            for stages in zip(*(stack.stages for stack in stacks), strict=True)
        ]

    def penalty(self) -> Tensor | None:
        if not any(self.strengths) or len(self.tasks) < 2:
            return None
        terms = [
            strength * (squares(layer).sum(0) + 1e-12).sqrt().sum()
            for strength, stage in zip(self.strengths, self.layers(), strict=True)
            for layer in stage
            if layer.requires_grad
        ]
        return torch.stack(terms).sum() if terms else None

    def tables(self) -> dict[str, Table]:
        """How much each task's network reads each input of the first layer."""
        with torch.no_grad():
            first = next((layer for stage in self.layers() for layer in stage), None)
            if first is None:
                return {}
            values = squares(first).sqrt()
        stack = self.stack_list()[0]
        names = input_names(stack.stem, stack.architecture.streams[stack.stream])
        if len(names) != values.shape[1] or len(self.order) > 1:
            names = [f"input {number}" for number in range(1, values.shape[1] + 1)]
        return {"features": Table("norm of the weights of each input", tuple(self.by_stream()), tuple(names), values)}


def squares(layer: Tensor) -> Tensor:
    """Σ W² of each input in each task's network, [T, in], from weights [T, out, in, …]."""
    return layer.flatten(3).square().sum((1, 3)) if layer.ndim > 3 else layer.square().sum(1)


def weights(stage: nn.Module) -> list[Tensor]:
    """The weights [T, out, in, …] of the layers of T stages that are one module, in the order that they have them."""
    if isinstance(stage, StackedLinear):
        return [stage.weight]
    if isinstance(stage, OneByOne):
        same = zip(*(list(_matrices(part)) for part in stage.parts), strict=True)
        return [torch.stack(values) for values in same]
    return [values for part in stage.children() for values in weights(part)]


def _matrices(module: nn.Module) -> Iterator[Tensor]:
    """[out, in, …] of each layer of one network's stage."""
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, *_KERNELS)):
            yield layer.weight
        elif isinstance(layer, _TRANSPOSED):
            yield layer.weight.transpose(0, 1)
        elif isinstance(layer, nn.RNNBase):
            yield from (values for name, values in layer.named_parameters() if name.startswith("weight"))


def input_names(stem: nn.Module, spec: StreamSpec) -> list[str]:
    """What a stem that puts all fields side by side hands to the first layer; nothing for other stems."""
    if isinstance(stem, OneByOne):
        stem = stem.parts[0]
    if not isinstance(stem, VectorStem | StackedVectorStem):
        return []
    sizes = [cast(Tensor, getattr(table, "weight", table)).shape[-1] for table in stem.embeddings]
    names: list[str] = []
    for field in stem.fields:
        width = torch.Size(spec.fields[field]).numel()
        given = spec.names.get(field) or [f"{field} {number}" for number in range(1, width + 1)]
        if field == "categorical":
            names += [f"{name} [{place}]" for name, size in zip(given, sizes, strict=True) for place in range(1, size + 1)]
        else:
            names += given if len(given) == width else [f"{field} {number}" for number in range(1, width + 1)]
    return names
