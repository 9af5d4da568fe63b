"""Multi-layer perceptron."""

from collections.abc import Sequence
from typing import Annotated, Literal

from annotated_types import Ge, Lt, MinLen
from torch import nn

from mtl_runner.encoders.base import Dropout, Encoder, FeatureSpec, StreamSpecs
from mtl_runner.encoders.stems import VectorStem
from mtl_runner.errors import UserError

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh}
NORMS: dict[str, type[nn.Module]] = {"layer": nn.LayerNorm, "batch": nn.BatchNorm1d}


class MLP(Encoder):
    """Each hidden layer is a stage: linear, normalisation, activation, dropout.

    Takes any fields: numbers, embedded categories, images pixel by pixel.

    Args:
        streams: the input streams.
        hidden: width of each hidden layer.
        activation: relu, gelu, silu or tanh.
        norm: none, layer (LayerNorm) or batch (BatchNorm).
        dropout: probability of setting a hidden unit to zero in training.
        embedding_size: size of the vector of a category; null takes 1.6 · cardinality^0.56.
    """

    def __init__(
        self,
        streams: StreamSpecs,
        *,
        hidden: Annotated[Sequence[Annotated[int, Ge(1)]], MinLen(1)] = (256, 128),
        activation: Literal["relu", "gelu", "silu", "tanh"] = "relu",
        norm: Literal["none", "layer", "batch"] = "none",
        dropout: Annotated[float, Ge(0), Lt(1)] = 0.0,
        embedding_size: Annotated[int, Ge(1)] | None = None,
    ) -> None:
        super().__init__()
        stems = {name: VectorStem(spec, embedding_size) for name, spec in streams.items()}
        widths = {name: stem.width for name, stem in stems.items()}
        if 0 in widths.values():
            raise UserError("encoder=mlp: the input has no columns; at least one is needed")
        if len(set(widths.values())) > 1:
            # streams of different width meet in the first hidden layer's space
            stems = {name: nn.Sequential(stem, nn.Linear(stem.width, hidden[0])) for name, stem in stems.items()}  # type: ignore[misc]
            widths = dict.fromkeys(widths, hidden[0])
        self.stems = nn.ModuleDict(stems)
        width = next(iter(widths.values()))
        self.stages = nn.ModuleList()
        for size in hidden:
            layers: list[nn.Module] = [nn.Linear(width, size)]
            if norm != "none":
                layers.append(NORMS[norm](size))
            layers.append(ACTIVATIONS[activation]())
            if dropout:
                layers.append(Dropout(dropout))
            self.stages.append(nn.Sequential(*layers))
            width = size
        self.features = FeatureSpec((width,))
