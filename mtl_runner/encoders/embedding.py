"""Embeddings of users, items and other categories, with their products."""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Lt
from torch import Tensor, nn

from mtl_runner.batch import Fields, StreamSpec
from mtl_runner.encoders.base import Dropout, Encoder, FeatureSpec, SideBySide, StreamSpecs
from mtl_runner.errors import NotApplicable, choices


class Embedding(Encoder):
    """For recommendation: vectors e_1 … e_K of the K categories of an example (user, item, genre …), then hidden layers.

    The stem puts side by side, with s the ``size``:

    ==================== ==========================================================================
    Σ_{j<k} e_j ⊙ e_k    s numbers, ``combine: interaction`` with two or more columns alone
    e_1 … e_K            K · s numbers
    numeric columns      as they are
    ==================== ==========================================================================

    The sum of the products of pairs, ½ ((Σ e_k)² - Σ e_k²) entry by entry, is the second order of a factorisation machine
    before its sum over the entries: Rendle, "Factorization machines", ICDM 2010; He & Chua, "Neural factorization machines",
    SIGIR 2017. Of a user and an item it is the product of generalised matrix factorisation: He et al., "Neural collaborative
    filtering", WWW 2017. Each hidden layer (linear, relu, dropout) is a stage. With ``hidden: []`` the heads read the stem
    through one stage that does nothing: matrix factorisation with a term of the user's and one of the item's own.

    It differs from the papers: NeuMF has other vectors for its hidden layers than for its products, and there
    the product does not go through layers. A category that training does not know has the vector 0, to which no gradient goes.
    The others start normal with standard deviation 1 / √s (the papers: 0.01, from which products start slowly).

    Cost: K · s numbers looked up, products included O(K · s); the rest is the hidden layers.

    Args:
        streams: the input streams; each has ``categorical`` columns and may have ``numeric`` ones.
        size: s, the same for all columns.
        combine: concat, or interaction, which adds the products.
        hidden: width of each hidden layer.
        dropout: probability of setting a hidden unit to zero in training.
    """

    needs = ("categorical",)

    def __init__(
        self,
        streams: StreamSpecs,
        *,
        size: Annotated[int, Ge(1)] = 32,
        combine: Literal["concat", "interaction"] = "interaction",
        hidden: Sequence[Annotated[int, Ge(1)]] = (64, 32),
        dropout: Annotated[float, Ge(0), Lt(1)] = 0.0,
    ) -> None:
        super().__init__(streams)
        stems: dict[str, nn.Module] = {}
        widths = {}
        for name, spec in streams.items():
            stem = InteractionStem(spec, size, combine == "interaction")
            stems[name], widths[name] = stem, stem.width
        width, first = next(iter(widths.values())), hidden[0] if hidden else size
        if len(set(widths.values())) > 1:
            # streams of different width meet in the first hidden layer's space
            stems = {name: nn.Sequential(stem, nn.Linear(widths[name], first)) for name, stem in stems.items()}
            width = first
        self.stems = nn.ModuleDict(stems)
        self.stages = nn.ModuleList()
        for before, after in zip([width, *hidden], hidden, strict=False):
            self.stages.append(nn.Sequential(nn.Linear(before, after), nn.ReLU(), Dropout(dropout)))
        if not hidden:
            self.stages.append(nn.Identity())
        self.features = FeatureSpec((hidden[-1] if hidden else width,))


class InteractionStem(nn.Module):
    """Products of the columns' vectors, the vectors, and the numbers side by side, [N, width]."""

    def __init__(self, spec: StreamSpec, size: int, products: bool) -> None:
        super().__init__()
        columns = len(spec.cardinalities)
        if set(spec.fields) - {"categorical", "numeric"} or not columns:
            reads = "reads categorical columns, with or without numbers"
            raise NotApplicable(f"encoder=embedding {reads}, and the data set gives {choices(spec.fields)}; see encoder=mlp")
        self.products = products and columns > 1
        self.embeddings = SideBySide(nn.Embedding(cardinality, size, padding_idx=0) for cardinality in spec.cardinalities)
        with torch.no_grad():
            for embedding in self.embeddings:
                embedding.weight *= size**-0.5
        self.width = (columns + self.products) * size + spec.fields.get("numeric", (0,))[0]

    def forward(self, fields: Fields) -> Tensor:
        vectors = torch.stack([look(fields["categorical"][:, k]) for k, look in enumerate(self.embeddings)], 1)  # [N, K, size]
        parts = [vectors.flatten(1)]
        if self.products:
            parts.insert(0, (vectors.sum(1).square() - vectors.square().sum(1)) / 2)
        if "numeric" in fields:
            parts.append(fields["numeric"])
        return torch.cat(parts, 1)
