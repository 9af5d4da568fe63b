"""Multi-layer perceptron."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Annotated, Literal

from annotated_types import Ge, Lt, MinLen
from torch import Tensor, nn

from mtl_runner.batch import StreamSpec
from mtl_runner.encoders.base import Dropout, Encoder, FeatureSpec, StreamSpecs
from mtl_runner.encoders.stems import VectorStem
from mtl_runner.encoders.words import BagStem
from mtl_runner.errors import NotApplicable

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": lambda: nn.ReLU(inplace=True),  # a fortieth of a step of small layers
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}
NORMS: dict[str, type[nn.Module]] = {"layer": nn.LayerNorm, "batch": nn.BatchNorm1d}


class Residual(nn.Module):
    """x + layers(x)."""

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)  # type: ignore[no-any-return]


class MLP(Encoder):
    """Each hidden layer is a stage: f(x) = dropout(activation(normalisation(linear(x)))).

    Takes any fields: numbers, embedded categories, images pixel by pixel, of tokens the mean of their vectors (``BagStem``).

    ``residual`` makes a stage x + f(x) where its input and output have the same width (He et al., "Deep residual learning
    for image recognition", CVPR 2016, Eq. 1, with nothing after the addition). A stage that changes the width stays f(x):
    it gets no projection, so that the number of parameters is the same with and without ``residual``.

    Args:
        streams: the input streams.
        hidden: width of each hidden layer.
        activation: relu, gelu, silu or tanh.
        norm: none, layer (LayerNorm) or batch (BatchNorm).
        dropout: probability of setting a hidden unit to zero in training.
        embedding_size: size of the vector of a category or token; null takes 1.6 · cardinality^0.56, at most 64.
        residual: add the input of a hidden layer to its output where they have the same width.
    """

    any_length = True

    def __init__(
        self,
        streams: StreamSpecs,
        *,
        hidden: Annotated[Sequence[Annotated[int, Ge(1)]], MinLen(1)] = (256, 128),
        activation: Literal["relu", "gelu", "silu", "tanh"] = "relu",
        norm: Literal["none", "layer", "batch"] = "none",
        dropout: Annotated[float, Ge(0), Lt(1)] = 0.0,
        embedding_size: Annotated[int, Ge(1)] | None = None,
        residual: bool = False,
    ) -> None:
        super().__init__(streams)
        stems = {name: _stem(spec, embedding_size) for name, spec in streams.items()}
        widths = {name: stem.width for name, stem in stems.items()}
        if 0 in widths.values():
            raise NotApplicable("encoder=mlp: the input has no columns; at least one is needed")
        if len(set(widths.values())) > 1:
            # streams of different width meet in the first hidden layer's space
            stems = {name: nn.Sequential(stem, nn.Linear(stem.width, hidden[0])) for name, stem in stems.items()}  # type: ignore[misc]
            widths = dict.fromkeys(widths, hidden[0])
        self.stems = nn.ModuleDict(stems)
        sizes = [next(iter(widths.values())), *hidden]
        if residual and all(before != after for before, after in pairwise(sizes)):
            raise NotApplicable(f"encoder.residual=true: no hidden layer keeps its input's width ({', '.join(map(str, sizes))})")
        self.stages = nn.ModuleList()
        for width, size in pairwise(sizes):
            layers: list[nn.Module] = [nn.Linear(width, size)]
            if norm != "none":
                layers.append(NORMS[norm](size))
            layers.append(ACTIVATIONS[activation]())
            if dropout:
                layers.append(Dropout(dropout))
            layer = nn.Sequential(*layers)
            self.stages.append(Residual(layer) if residual and width == size else layer)
        self.features = FeatureSpec((sizes[-1],))


def _stem(spec: StreamSpec, embedding_size: int | None) -> VectorStem | BagStem:
    return BagStem(spec, embedding_size) if "tokens" in spec.fields else VectorStem(spec, embedding_size)
